//! Properties that hold over random histories. A failing case is shrunk and kept in
//! `proptest-regressions/`.

mod clocks;
pub(crate) mod decisions;
mod histories;
mod locks;
mod pages;
mod requests;
mod restores;
mod world;
