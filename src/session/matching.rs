//! Matches the kernels of a session as a set (docs/lifecycle.md#kernel-states).

/// How many of a session's kernels must match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// Every kernel, and there is at least one.
    All,
    /// At least one kernel.
    Any,
    /// No kernel, though there is at least one.
    NotAny,
}

impl Match {
    pub fn holds<T: Copy>(self, kernels: impl IntoIterator<Item = T>, in_set: impl Fn(T) -> bool) -> bool {
        let (mut total, mut inside) = (0usize, 0usize);
        for kernel in kernels {
            total += 1;
            inside += usize::from(in_set(kernel));
        }
        match self {
            Self::All => total > 0 && inside == total,
            Self::Any => inside > 0,
            Self::NotAny => total > 0 && inside == 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Match::{All, Any, NotAny};

    #[test]
    fn sc_co_015_each_match_type_holds_as_defined() {
        let even = |n: i32| n % 2 == 0;
        for (numbers, all, any, not_any) in [
            (vec![], false, false, false),
            (vec![2, 4], true, true, false),
            (vec![1, 2], false, true, false),
            (vec![1, 3], false, false, true),
        ] {
            assert_eq!(All.holds(numbers.clone(), even), all, "{numbers:?}");
            assert_eq!(Any.holds(numbers.clone(), even), any, "{numbers:?}");
            assert_eq!(NotAny.holds(numbers.clone(), even), not_any, "{numbers:?}");
        }
    }
}
