//! What is seen of the cluster's objects, reduced to the fields that decisions look at. Pure.

mod node;
mod pod;
mod quota;
mod tenancy;
#[cfg(test)]
pub(crate) mod testing;
mod volumes;

pub use node::*;
pub use pod::*;
pub use quota::*;
pub use tenancy::*;
pub use volumes::*;
