//! The read port.

use super::{Client, Redis, front};
use holdfast_core::Gate;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_go_to_replicas_and_to_the_writer_if_there_are_none() {
    let primary = Redis::start();
    let replica = Redis::replica_of(&primary);
    primary.ask("SET k 1");
    replica.wait_until("GET k", |v| v == "1");
    let front = front(&primary).await;
    let route = |epoch, readers| {
        front.route(epoch, Gate::Open, Some(primary.endpoint("a")), readers, 600_000);
    };
    route(1, vec![replica.endpoint("a")]);
    let mut client = Client::connect(front.handle.ro_addr().unwrap()).await;
    assert!(client.ask("ROLE").await.starts_with("[slave, "));
    assert_eq!(client.ask("GET k").await, "1");
    assert!(client.ask("SET k 2").await.starts_with("-READONLY"), "the replica says so itself");
    // Messages reach subscribers of a replica.
    assert_eq!(client.ask("SUBSCRIBE c").await, "[subscribe, c, :1]");
    primary.ask("PUBLISH c hello");
    assert_eq!(client.reply().await, "[message, c, hello]");

    let mut client = Client::connect(front.handle.ro_addr().unwrap()).await;
    assert_eq!(client.ask("GET k").await, "1");
    route(1, vec![]);
    assert!(client.ask("ROLE").await.starts_with("[master, "));
    assert_eq!(
        client.ask("SET k 2").await,
        "-READONLY You can't write on the read port; writes go to the service's read/write port"
    );
    client.pipeline(&["MULTI", "SET k 2", "EXEC", "GET k"]).await;
    let said = client.replies(4).await;
    assert!(said[1].starts_with("-READONLY") && said[2].starts_with("-EXECABORT"), "{said:?}");
    assert_eq!(said[3], "1");
    assert_eq!(client.ask("EVAL_RO return(redis.call('get',KEYS[1])) 1 k").await, "1");
    // Without a primary reads go on.
    route(1, vec![replica.endpoint("a")]);
    assert!(client.ask("ROLE").await.starts_with("[slave, "));
    front.route(2, Gate::Closed, None, vec![], 600_000);
    assert_eq!(client.ask("GET k").await, "1");
}
