//! Properties of random histories. Failing cases are minimized and kept in `proptest-regressions/`.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test fails by panicking")]

mod clocks;
mod decisions;
mod histories;
mod locks;
mod pages;
mod requests;
mod restores;
mod world;
