//! Properties that hold over random histories. A failing case is shrunk and kept in
//! `proptest-regressions/`.

mod clocks;
mod decisions;
mod histories;
mod locks;
mod pages;
mod requests;
mod restores;
mod world;
