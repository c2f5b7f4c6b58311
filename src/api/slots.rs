//! How the kernels of a session are numbered and named.

use super::{KernelTemplate, Resources, Session};

/// One kernel that a session shall have, before it has a place.
#[derive(Clone, Debug)]
pub struct KernelSlot<'a> {
    pub template: &'a KernelTemplate,
    /// From 1, within the role.
    pub index: i32,
    /// From 0 for main.
    pub local_rank: i32,
    /// Role and index: `main1`, `sub2`.
    pub hostname: String,
}

/// The kernels of a session in the order they are allocated and ranked: main first, then as listed.
pub fn expand(kernels: &[KernelTemplate]) -> Vec<KernelSlot<'_>> {
    main_first(kernels)
        .flat_map(|template| (1..=template.replicas.max(0)).map(move |index| (template, index)))
        .zip(0..)
        .map(|((template, index), local_rank)| KernelSlot {
            template,
            index,
            local_rank,
            hostname: hostname(&template.role, index),
        })
        .collect()
}

/// What a session asks for over all its kernels.
pub fn requested(session: &Session) -> Resources {
    let mut total = Resources::default();
    for kernel in &session.spec.kernels {
        total.add(&Resources::from(&kernel.resources).times(i64::from(kernel.replicas)));
    }
    total
}

/// The role every session has exactly once.
pub const MAIN_ROLE: &str = "main";
/// The hostname of the main kernel.
pub const MAIN_HOSTNAME: &str = "main1";

/// The roles of a session in the order of allocation.
pub fn main_first(kernels: &[KernelTemplate]) -> impl Iterator<Item = &KernelTemplate> {
    let is_main = |template: &&KernelTemplate| template.role == MAIN_ROLE;
    kernels.iter().filter(is_main).chain(kernels.iter().filter(move |template| !is_main(template)))
}

/// `main1`, `sub2`.
pub fn hostname(role: &str, index: i32) -> String {
    format!("{role}{index}")
}
