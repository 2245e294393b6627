//! What may stand in cluster.toml: its tables and their keys, as they are read and before anything is checked.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) cluster: Spanned<ClusterTable>,
    #[serde(default)]
    pub(super) device: Vec<Spanned<DeviceTable>>,
    #[serde(default)]
    pub(super) link: Vec<Spanned<LinkTable>>,
    #[serde(default)]
    pub(super) condition: Vec<Spanned<ConditionTable>>,
    pub(super) input: Option<InputTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClusterTable {
    pub(super) name: Spanned<String>,
    pub(super) input: Spanned<String>,
    pub(super) output: Spanned<String>,
    pub(super) max_latency: Option<Spanned<String>>,
    pub(super) security: Option<Spanned<String>>,
    pub(super) survive: Option<Spanned<i64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeviceTable {
    pub(super) name: Spanned<String>,
    pub(super) target: Spanned<String>,
    pub(super) count: Option<Spanned<usize>>,
    pub(super) ram: Option<Spanned<String>>,
    pub(super) flash: Option<Spanned<String>>,
    pub(super) cpu: Option<Spanned<f64>>,
    pub(super) threads: Option<Spanned<toml::Value>>,
    pub(super) standalone: Option<bool>,
    pub(super) address: Option<Spanned<Addresses>>,
    pub(super) user: Option<Spanned<String>>,
    pub(super) ssh_port: Option<Spanned<u16>>,
    pub(super) identity: Option<Spanned<Identities>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Addresses {
    First(String),
    Each(Vec<String>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LinkTable {
    pub(super) between: Spanned<Vec<Spanned<String>>>,
    pub(super) transport: Spanned<String>,
    pub(super) bandwidth: Option<Spanned<String>>,
    pub(super) baud: Option<Spanned<u32>>,
    pub(super) port: Option<Spanned<toml::Value>>,
    pub(super) latency: Option<Spanned<String>>,
    pub(super) topology: Option<Spanned<String>>,
    pub(super) hub: Option<Spanned<String>>,
    pub(super) duplex: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConditionTable {
    #[serde(default)]
    pub(super) bandwidth: BTreeMap<String, Spanned<String>>,
    #[serde(default)]
    pub(super) missing: Vec<Spanned<String>>,
}

/// Public keys of a table's devices.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Identities {
    One(String),
    Each(Vec<String>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InputTable {
    pub(super) name: Option<String>,
    pub(super) dtype: Option<Spanned<String>>,
    pub(super) layout: Option<Spanned<String>>,
    pub(super) mean: Option<Spanned<toml::Value>>,
    pub(super) std: Option<Spanned<toml::Value>>,
}
