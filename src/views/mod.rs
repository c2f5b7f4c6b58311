//! Views of the cluster's objects: only the fields that decisions use. Pure.

pub mod extract;
mod images;
mod node;
mod pod;
mod quota;
pub mod requests;
mod tenancy;
#[cfg(test)]
pub(crate) mod testing;
mod volumes;

pub use images::*;
pub use node::*;
pub use pod::*;
pub use quota::*;
pub use tenancy::*;
pub use volumes::*;
