//! Check nodes as real processes: replicas on one PostgreSQL database, and sidecars that follow the
//! replicas.
//!
//! The faults are real: processes are paused and killed, connections are cut, and databases are
//! restored to earlier states.

mod administrator;
mod fleet;
mod history;
mod load;
mod measure;

mod chaos;
mod clocks;
mod database;
mod enforcement;
mod failover;
mod locks;
mod recovery;
mod rejections;
mod sidecars;
mod silence;
mod upgrade;

use crate::common::{later, postgres, proxy, requests, server};
