//! Fills an empty database with live grants.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark fails by panicking, and prints what it finds"
)]

use std::sync::Arc;

use clap::Parser;
use support_access::{server::SystemClock, store};
use support_access_bench::{GRANTS_PER_TENANT, GROUPS, group, tenant};

#[path = "../../../../tests/common/grants.rs"]
mod grants;

/// Fills an empty database with live grants.
#[derive(Debug, Parser)]
struct Args {
    /// The URL of the database.
    #[arg(long)]
    database_url: String,
    /// The number of grants.
    #[arg(long, default_value_t = 1_000_000)]
    grants: usize,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let Args { database_url, grants } = Args::parse();
    let store = store::open(&database_url, Arc::new(SystemClock), None).await.unwrap();
    let mut change = store.begin().await.unwrap();
    let now = change.now();
    for number in 0..grants {
        let (tenant, group) = (tenant(number / GRANTS_PER_TENANT), group(number % GROUPS));
        change.append(grants::new_grant(&tenant, &group, now, None)).await.unwrap();
    }
    change.commit().await.unwrap();
    store.close().await;
    println!("{grants} grants");
}
