//! Parts of the replication protocol.

mod followers;
mod leases;
mod sessions;
mod time;
