//! Types and functions of the domain.

mod callers;
mod canonical;
mod chain;
mod checks;
mod grants;
mod ids;
mod locks;
mod policy;
mod times;
mod tokens;
mod violations;
