//! Shared parts of a session's objects. Pure.

use k8s_openapi::api::core::v1 as core;

/// The path of the operator's own files in a kernel.
pub const OWN_PATH: &str = "/opt/sokovan";

pub fn mount(volume: &str, path: String) -> core::VolumeMount {
    core::VolumeMount { name: volume.into(), mount_path: path, ..core::VolumeMount::default() }
}

pub fn read_only(mount: core::VolumeMount) -> core::VolumeMount {
    core::VolumeMount { read_only: Some(true), ..mount }
}

/// Escapes a command or value, so that Kubernetes does not expand `$(NAME)` or turn `$$` into `$`.
pub fn escaped(word: &str) -> String {
    word.replace('$', "$$")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sessions_commands_and_values_reach_its_program_unchanged() {
        // The kubelet turns `$$` into `$`, and must find nothing to expand.
        for word in ["$(HOME)", "$$(HOME)", "pa$$word", "$$", "$", "100 $"] {
            let sent = escaped(word);
            assert_eq!(sent.replace("$$", "$"), word);
            assert!(!sent.replace("$$", "").contains('$'), "{sent}");
        }
    }
}
