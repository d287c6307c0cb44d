//! Types and functions of the domain.

mod callers;
mod canonical;
mod chain;
mod grants;
mod ids;
mod locks;
mod policy;
mod times;
