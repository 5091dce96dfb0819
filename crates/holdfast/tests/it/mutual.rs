//! Two machines that stand in for each other, and a witness.

use crate::stage::{Stage, no_loss, stage};
use holdfast_core::topology::Engine;
use holdfast_drill::mutual;
use holdfast_drill::sandbox::{PARTNER, Partner, SERVICE};
use std::time::Duration;

async fn pair() -> Stage {
    stage(2, |options| {
        options.partner = Some(Partner { engine: Engine::Redis, programs: None });
        options.witnesses = 1;
        options.app = true;
        options.service_lines = "cool_down_s = 1\nhand_back_after_s = 1".into();
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn either_machine_dies_the_other_carries_both_and_services_go_home() {
    let mut stage = pair().await;
    let homes = [(SERVICE, "a"), (PARTNER, "b")];
    for (number, (displaced, victim)) in (0..).zip(homes) {
        let rounds = mutual::round(&mut stage.sandbox, number, 2).await;
        let rounds = rounds.unwrap_or_else(|e| panic!("{e:?}\n{}", crate::stage::logs(stage.dir.path())));
        let survivor = if victim == "a" { "b" } else { "a" };
        let [end_shop, end_stock, back_shop, back_stock] = &rounds[..] else { panic!("{rounds:?}") };
        rounds.iter().for_each(no_loss);
        for round in [end_shop, end_stock] {
            assert_eq!(round.to, survivor, "{round:?}");
        }
        for (round, (service, home)) in [back_shop, back_stock].into_iter().zip(homes) {
            assert_eq!((round.service.as_deref(), &*round.to), (Some(service), home), "{round:?}");
            assert_eq!(round.client_errors, 0, "{round:?}");
            let from = if service == displaced { survivor } else { home };
            assert_eq!(round.from, from, "{round:?}");
        }
    }
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_person_moved_stays_until_it_is_sent_home() {
    let mut stage = pair().await;
    stage.sandbox.holdfast(&["switchover", SERVICE, "--to", "b"]).await.unwrap();
    stage.healthy().await;
    // Well beyond the cool-down and what its home has to be well for.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(stage.healthy().await["primary"], "b");
    let both = stage.sandbox.holdfast(&["switchover", SERVICE, "--to", "b", "--home"]).await.unwrap_err();
    assert!(both.to_string().contains("cannot be used with"), "{both}");
    stage.sandbox.holdfast(&["switchover", SERVICE, "--home"]).await.unwrap();
    assert_eq!(stage.healthy().await["primary"], "a");
    let again = stage.sandbox.holdfast(&["switchover", SERVICE, "--home"]).await.unwrap_err();
    assert!(again.to_string().contains("a is the primary already"), "{again}");
    stage.end().await;
}
