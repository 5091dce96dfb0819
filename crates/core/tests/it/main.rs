mod failover;
mod scene;
mod sync_set;
mod wishes;
