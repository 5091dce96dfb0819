//! A primary with replicas that really replicate, and a proxy that knows them.

use crate::client::Client;
use crate::engine::{Engine, PASSWORD, USER, eventually};
use crate::front::Front;
use holdfast_core::Gate;
use holdfast_core::topology::{self, ReadConsistency};

/// Which servers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flavour {
    MariaDb,
    MySql,
}

pub struct Group {
    pub flavour: Flavour,
    pub primary: Engine,
    pub replicas: Vec<Engine>,
}

impl Flavour {
    fn start(self, id: usize) -> Engine {
        let id = format!("--server-id={id}");
        match self {
            Flavour::MariaDb => {
                Engine::start_with(&[&id, "--slave-parallel-threads=4", "--slave-parallel-mode=optimistic"])
            }
            Flavour::MySql => Engine::mysql_with(&[&id, "--gtid-mode=ON", "--enforce-gtid-consistency=ON"]),
        }
    }
    pub fn engine(self) -> topology::Engine {
        match self {
            Flavour::MariaDb => topology::Engine::MariaDb,
            Flavour::MySql => topology::Engine::MySql,
        }
    }
}

impl Group {
    /// Each has a table `d.here`, not replicated, that says who answers: `p`, `r1`, `r2`.
    pub fn start(flavour: Flavour, replicas: usize) -> Group {
        tokio::task::block_in_place(|| Group::start_all(flavour, replicas))
    }

    fn start_all(flavour: Flavour, replicas: usize) -> Group {
        let mut engines: Vec<Engine> = std::thread::scope(|s| {
            let starting: Vec<_> = (0..=replicas).map(|i| s.spawn(move || flavour.start(i + 1))).collect();
            starting.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let replicas = engines.split_off(1);
        let primary = engines.remove(0);
        let password = PASSWORD.replace('\\', "\\\\").replace('\'', "\\'");
        let port = primary.addr.port();
        for replica in &replicas {
            match flavour {
                Flavour::MariaDb => {
                    let at = primary.sql("SELECT @@gtid_binlog_pos");
                    replica.sql(&format!(
                        "RESET MASTER; SET GLOBAL gtid_slave_pos='{at}'; CHANGE MASTER TO MASTER_HOST='127.0.0.1', \
                         MASTER_PORT={port}, MASTER_USER='{USER}', MASTER_PASSWORD='{password}', \
                         MASTER_USE_GTID=slave_pos; START SLAVE; SET GLOBAL read_only=1"
                    ));
                }
                Flavour::MySql => {
                    let at = primary.sql("SELECT REPLACE(@@gtid_executed, '\n', '')");
                    replica.sql(&format!(
                        "RESET BINARY LOGS AND GTIDS; SET GLOBAL gtid_purged='{at}'; CHANGE REPLICATION SOURCE TO \
                         SOURCE_HOST='127.0.0.1', SOURCE_PORT={port}, SOURCE_USER='{USER}', \
                         SOURCE_PASSWORD='{password}', SOURCE_AUTO_POSITION=1, GET_SOURCE_PUBLIC_KEY=1; \
                         START REPLICA; SET GLOBAL super_read_only=1"
                    ));
                }
            }
        }
        let group = Group { flavour, primary, replicas };
        group.local(&group.primary, "CREATE TABLE d.here (name VARCHAR(9)); INSERT INTO d.here VALUES ('p')");
        for (i, replica) in group.replicas.iter().enumerate() {
            let name = format!("r{}", i + 1);
            group.local(
                replica,
                &format!("CREATE TABLE d.here (name VARCHAR(9)); INSERT INTO d.here VALUES ('{name}')"),
            );
        }
        group
    }

    /// Runs on this server alone.
    pub fn local(&self, engine: &Engine, sql: &str) {
        let open = match self.flavour {
            Flavour::MariaDb => "",
            Flavour::MySql => "SET GLOBAL super_read_only=0; SET GLOBAL read_only=0; ",
        };
        let close = match self.flavour {
            Flavour::MySql if engine.addr != self.primary.addr => "; SET GLOBAL super_read_only=1",
            _ => "",
        };
        engine.sql(&format!("{open}SET sql_log_bin=0; {sql}{close}"));
    }

    /// A replica goes on receiving and applies nothing.
    pub fn stop_applying(&self, replica: usize) {
        self.replicas[replica].sql(match self.flavour {
            Flavour::MariaDb => "STOP SLAVE SQL_THREAD",
            Flavour::MySql => "STOP REPLICA SQL_THREAD",
        });
    }
    pub fn go_on(&self, replica: usize) {
        self.replicas[replica].sql(match self.flavour {
            Flavour::MariaDb => "START SLAVE SQL_THREAD",
            Flavour::MySql => "START REPLICA SQL_THREAD",
        });
    }

    /// Waits until all replicas have what the primary has now.
    pub async fn level(&self) {
        let at = match self.flavour {
            Flavour::MariaDb => self.primary.sql("SELECT @@gtid_binlog_pos"),
            Flavour::MySql => self.primary.sql("SELECT REPLACE(@@gtid_executed, '\n', '')"),
        };
        for replica in &self.replicas {
            let sql = match self.flavour {
                Flavour::MariaDb => format!("SELECT MASTER_GTID_WAIT('{at}', 0.2)"),
                Flavour::MySql => format!("SELECT WAIT_FOR_EXECUTED_GTID_SET('{at}', 0.2)"),
            };
            eventually("a replica is level", || replica.sql(&sql) == "0").await;
        }
    }

    /// A proxy in zone `a` with these readers by number, each in a zone.
    pub async fn front(
        &self,
        consistency: ReadConsistency,
        wait_ms: u64,
        readers: &[(usize, &str)],
    ) -> Front {
        let front = Front::start_with(|o| {
            o.engine = self.flavour.engine();
            o.read_consistency = consistency;
            o.limits.read_wait_ms = wait_ms;
        })
        .await;
        self.route(&front, 1, readers);
        front
    }

    pub fn route(&self, front: &Front, epoch: u64, readers: &[(usize, &str)]) {
        let readers = readers.iter().map(|(i, zone)| self.replicas[*i].endpoint(zone)).collect();
        front.route(epoch, Gate::Open, Some(self.primary.endpoint("a")), readers, 600_000);
    }
}

/// Who answers a plain read of this session.
pub async fn here(client: &mut Client) -> String {
    client.value("SELECT name FROM d.here").await
}
