//! Resource quantities: as users write them, and as exact integers.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A count, as the API writes numbers.
pub fn whole(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// An amount of one resource in thousandths of its unit (cores, bytes, devices). One amount is at most 9 PB. The integer is
/// wide enough for any sum, so that an added amount can be subtracted again exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(i128);

impl Amount {
    pub const ZERO: Self = Self(0);
    pub const MAX: Self = Self(i64::MAX as i128);

    pub const fn from_milli(milli: i64) -> Self {
        Self(milli as i128)
    }

    pub const fn from_units(units: i64) -> Self {
        Self(units.saturating_mul(1000) as i128)
    }

    /// The amount, cut to 9 PB, for comparison with a node's resources.
    pub fn milli(self) -> i64 {
        i64::try_from(self.0.clamp(-Self::MAX.0, Self::MAX.0)).unwrap_or(i64::MAX)
    }

    pub fn is_zero(self) -> bool {
        self.0 == 0
    }

    pub fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// Parses the Kubernetes notation (`500m`, `1.5`, `2Gi`, `1e3`). Rounds up to a thousandth and cuts at [`Self::MAX`]. None
    /// if the text is no quantity.
    pub fn parse(text: &str) -> Option<Self> {
        let split = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-'))).unwrap_or(text.len());
        let (number, suffix) = text.split_at(split);
        let (numerator, denominator) = factor(suffix)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if !fraction.bytes().all(|digit| digit.is_ascii_digit()) || !number.bytes().any(|c| c.is_ascii_digit()) {
            return None;
        }
        // More decimals than these cannot change a thousandth, but for there being any.
        let (decimals, rest) = fraction.split_at(fraction.len().min(DECIMALS));
        let more = i128::from(rest.bytes().any(|digit| digit != b'0'));
        let digits = format!("{whole}{decimals}").parse::<i128>().ok()? + more;
        let scale = 10i128.pow(u32::try_from(decimals.len()).ok()?);
        let top = digits.saturating_mul(1000).saturating_mul(numerator);
        let bottom = denominator.saturating_mul(scale);
        let milli = top.div_euclid(bottom) + i128::from(top.rem_euclid(bottom) != 0);
        Some(Self(milli.clamp(-Self::MAX.0, Self::MAX.0)))
    }
}

/// The most decimals that are parsed.
const DECIMALS: usize = 18;

/// The factor and the divisor of a suffix. The factor saturates.
fn factor(suffix: &str) -> Option<(i128, i128)> {
    Some(match suffix {
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "" => (1, 1),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        // `e`/`E` followed by digits is an exponent; a bare `E` is exa.
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10i128.saturating_pow(exponent.unsigned_abs());
            if exponent >= 0 { (power, 1) } else { (1, power) }
        }
    })
}

impl fmt::Display for Amount {
    /// The shortest exact Kubernetes notation: `500m`, `2`, `64Mi`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 % 1000 != 0 {
            return write!(f, "{}m", self.0);
        }
        let units = self.0 / 1000;
        for (shift, suffix) in [(40, "Ti"), (30, "Gi"), (20, "Mi"), (10, "Ki")] {
            if units != 0 && units % (1i128 << shift) == 0 {
                return write!(f, "{}{suffix}", units >> shift);
            }
        }
        write!(f, "{units}")
    }
}

/// A quantity as written by a user: a number or a string, `2`, `500m`, `64Mi`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quantity(pub String);

impl Quantity {
    /// The amount. The API server refuses an unreadable quantity; if one arrives, it counts as more than any node has.
    pub fn amount(&self) -> Amount {
        Amount::parse(&self.0).unwrap_or(Amount::MAX)
    }
}

impl From<Amount> for Quantity {
    fn from(amount: Amount) -> Self {
        Self(amount.to_string())
    }
}

impl From<&str> for Quantity {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Int(i64),
            Fraction(f64),
            Text(String),
        }
        Ok(Self(match Raw::deserialize(deserializer)? {
            Raw::Int(number) => number.to_string(),
            Raw::Fraction(number) => number.to_string(),
            Raw::Text(text) => text,
        }))
    }
}

impl JsonSchema for Quantity {
    fn schema_name() -> Cow<'static, str> {
        "Quantity".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "x-kubernetes-int-or-string": true, "maxLength": 32 })
    }
}

/// The schema of amounts as people write them, for example `cpu: 0.5`. A CRD has no type for "number or string", so the
/// admission policy `quantities` checks the values.
pub(super) fn written_amounts(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "additionalProperties": {"x-kubernetes-preserve-unknown-fields": true}})
}

/// Amounts by resource name, as users write them: `{cpu: 2, memory: 1Gi, nvidia.com/gpu: 1}`.
pub type ResourceList = BTreeMap<String, Quantity>;

/// The name of a resource. The order is the one in which nodes are compared: accelerators, cpu, memory, then by name
/// (docs/scheduling.md#which-nodes).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceName {
    /// An extended resource, such as `nvidia.com/gpu`.
    Accelerator(Arc<str>),
    Cpu,
    Memory,
    Other(Arc<str>),
    /// The number of pods that a node accepts.
    Pods,
}

impl ResourceName {
    pub fn as_str(&self) -> &str {
        match self {
            Self::Accelerator(name) | Self::Other(name) => name,
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Pods => "pods",
        }
    }
}

impl From<&str> for ResourceName {
    fn from(name: &str) -> Self {
        match name {
            "cpu" => Self::Cpu,
            "memory" => Self::Memory,
            "pods" => Self::Pods,
            name if name.contains('/') => Self::Accelerator(name.into()),
            name => Self::Other(name.into()),
        }
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Amounts by resource, in the order of the resources. An absent resource is zero.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Resources(Vec<(ResourceName, Amount)>);

impl Resources {
    pub fn get(&self, name: &str) -> Amount {
        self.0.iter().find(|(own, _)| own.as_str() == name).map(|(_, amount)| *amount).unwrap_or_default()
    }

    pub fn amount(&self, name: &ResourceName) -> Amount {
        self.0.binary_search_by(|(own, _)| own.cmp(name)).map(|at| self.0[at].1).unwrap_or_default()
    }

    pub fn set(&mut self, name: impl Into<ResourceName>, amount: Amount) {
        *self.entry(&name.into()) = amount;
    }

    fn entry(&mut self, name: &ResourceName) -> &mut Amount {
        let at = match self.0.binary_search_by(|(own, _)| own.cmp(name)) {
            Ok(at) => at,
            Err(at) => {
                self.0.insert(at, (name.clone(), Amount::ZERO));
                at
            }
        };
        &mut self.0[at].1
    }

    pub fn is_zero(&self) -> bool {
        self.0.iter().all(|(_, amount)| amount.is_zero())
    }

    pub fn iter(&self) -> impl Iterator<Item = (&ResourceName, Amount)> {
        self.0.iter().map(|(name, amount)| (name, *amount))
    }

    pub fn add(&mut self, other: &Self) {
        for (name, amount) in other.iter() {
            let sum = self.entry(name);
            *sum = sum.saturating_add(amount);
        }
    }

    pub fn sub(&mut self, other: &Self) {
        for (name, amount) in other.iter() {
            let left = self.entry(name);
            *left = left.saturating_sub(amount);
        }
    }

    pub fn times(&self, count: i64) -> Self {
        let times = |amount: Amount| Amount(amount.0.saturating_mul(i128::from(count)));
        Self(self.iter().map(|(name, amount)| (name.clone(), times(amount))).collect())
    }

    /// The larger amount of each resource.
    pub fn max(&self, other: &Self) -> Self {
        let mut larger = self.clone();
        for (name, amount) in other.iter() {
            let own = larger.entry(name);
            *own = amount.max(*own);
        }
        larger
    }

    /// The first resource of which `self` has less than `wanted`: its name, the wanted amount and the available amount.
    pub fn lacking<'a>(&self, wanted: &'a Self) -> Option<(&'a ResourceName, Amount, Amount)> {
        wanted.iter().map(|(name, amount)| (name, amount, self.amount(name))).find(|(_, wanted, had)| wanted > had)
    }
}

impl From<&ResourceList> for Resources {
    fn from(list: &ResourceList) -> Self {
        let mut resources = Self::default();
        for (name, quantity) in list {
            resources.set(name.as_str(), quantity.amount());
        }
        resources
    }
}

impl From<&Resources> for ResourceList {
    fn from(resources: &Resources) -> Self {
        resources.iter().map(|(name, amount)| (name.to_string(), amount.into())).collect()
    }
}

impl fmt::Display for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (name, amount) in self.iter().filter(|(_, amount)| !amount.is_zero()) {
            write!(f, "{separator}{name} {amount}")?;
            separator = ", ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_writes_them() {
        for (text, milli) in [
            ("2", 2_000),
            ("500m", 500),
            ("1.5", 1_500),
            ("0.1", 100),
            ("64Mi", 64 * 1024 * 1024 * 1000),
            ("1e3", 1_000_000),
            ("1k", 1_000_000),
            ("100u", 1),
            ("-1", -1_000),
            (".5", 500),
            ("5.", 5_000),
            ("64.0000000000000000000", 64_000),
            ("1.0000000000000000000000000001", 1_001),
            ("0.0000000000000000000000000001", 1),
            ("10000000000000000000000n", 10_000_000_000_000_000),
            ("1e-300", 1),
            ("0e300", 0),
            ("1e300", i64::MAX),
            ("9E", i64::MAX),
            ("99999999999999999999999999999Ei", i64::MAX),
            ("-9E", -i64::MAX),
        ] {
            assert_eq!(Amount::parse(text), Some(Amount::from_milli(milli)), "{text}");
        }
        for text in ["", "x", ".", "-", "1Zi", "1.2.3", "1.-2", "--1", "e3", "1e"] {
            assert_eq!(Amount::parse(text), None, "{text}");
        }
    }

    #[test]
    fn amounts_print_as_short_as_exact() {
        for text in ["500m", "2", "64Mi", "3Gi", "1001"] {
            assert_eq!(Amount::parse(text).map(|a| a.to_string()).as_deref(), Some(text));
        }
    }

    #[test]
    fn lacking_names_the_resource_and_both_numbers() {
        let have = Resources::from(&ResourceList::from([("cpu".into(), "1".into())]));
        let want = Resources::from(&ResourceList::from([("cpu".into(), "2".into())]));
        assert_eq!(have.lacking(&want), Some((&ResourceName::Cpu, Amount::from_units(2), Amount::from_units(1))));
        assert_eq!(want.lacking(&have), None);
    }

    #[test]
    fn resources_stand_in_the_order_in_which_agents_are_compared() {
        let mut resources = Resources::default();
        for name in ["pods", "memory", "hugepages-2Mi", "cpu", "nvidia.com/gpu", "ephemeral-storage", "amd.com/gpu"] {
            resources.set(name, Amount::from_units(1));
        }
        let names: Vec<&str> = resources.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["amd.com/gpu", "nvidia.com/gpu", "cpu", "memory", "ephemeral-storage", "hugepages-2Mi", "pods"]);
    }
}
