//! Image references, by the grammar that container runtimes use.

/// Whether a runtime can parse an image reference: `[registry[:port]/]path[:tag][@algorithm:hex]`.
pub fn is_valid(reference: &str) -> bool {
    let (rest, digest) = match reference.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (reference, None),
    };
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    let (domain, path) = match name.split_once('/') {
        Some((first, path)) if first.contains(['.', ':']) || first == "localhost" => (Some(first), path),
        _ => (None, name),
    };
    domain.is_none_or(is_domain) && path.split('/').all(is_component) && tag.is_none_or(is_tag) && digest.is_none_or(is_digest)
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = domain.split_once(':').unwrap_or((domain, "0"));
    let is_label = |label: &str| {
        !label.is_empty()
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.split('.').all(is_label) && !port.is_empty() && port.chars().all(|c| c.is_ascii_digit())
}

/// Lower-case letters and digits, with single separators between them: `.`, `_`, `__` or any number of `-`.
fn is_component(component: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separators = component.split(is_plain).filter(|separator| !separator.is_empty());
    let all_known = separators.clone().all(|s| matches!(s, "." | "_" | "__") || s.chars().all(|c| c == '-'));
    component.starts_with(is_plain) && component.ends_with(is_plain) && all_known
}

fn is_tag(tag: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    tag.len() <= 128 && tag.starts_with(is_word) && tag.chars().all(|c| is_word(c) || matches!(c, '.' | '-'))
}

fn is_digest(digest: &str) -> bool {
    let Some((algorithm, hex)) = digest.split_once(':') else { return false };
    !algorithm.is_empty() && hex.len() >= 32 && hex.chars().all(|c| c.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_that_a_runtime_can_parse_are_valid() {
        let digest = format!("a/b@sha256:{}", "0".repeat(64));
        let valid =
            ["busybox", "busybox:1.36", "example.com/a/b:v1", "localhost:5000/x", "ghcr.io/org/a__b-c.d:latest", digest.as_str()];
        for reference in valid {
            assert!(is_valid(reference), "{reference}");
        }
        for reference in ["", "Busybox", "a//b", "a/", "/a", "a b", "a:", "a:-x", "a@sha256:1", "exa_mple.com/x:y:z", "a/b:c/d:"]
        {
            assert!(!is_valid(reference), "{reference}");
        }
    }
}
