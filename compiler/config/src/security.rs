//! By what devices know each other: `security` of the cluster, `identity` of devices.

use toml::Spanned;

use super::cluster::{KEY_BYTES, Security};
use super::cluster_file::Checker;
use super::tables::{DeviceTable, Identities};
use partita_ir::diagnostic::{did_you_mean, printable};

/// A public key of 64 hexadecimal digits.
fn key(text: &str) -> Option<[u8; KEY_BYTES]> {
    let digits: Option<Vec<u8>> = text.chars().map(|digit| digit.to_digit(16).map(|digit| digit as u8)).collect();
    let digits = digits.filter(|digits| digits.len() == 2 * KEY_BYTES)?;
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect::<Vec<u8>>().try_into().ok()
}

impl Checker<'_> {
    /// Whether devices prove who they are. They do if nothing is said.
    pub(super) fn security(&mut self, given: Option<&Spanned<String>>, devices: &[Spanned<DeviceTable>]) -> Security {
        let Some(given) = given else { return Security::Noise };
        match given.get_ref().as_str() {
            "noise" => Security::Noise,
            "none" => {
                if let Some(identity) = devices.iter().find_map(|table| table.get_ref().identity.as_ref()) {
                    let help = Some("leave one of the two out: keys are what `noise` knows devices by".to_string());
                    let message = "`identity` says nothing with `security = \"none\"`".to_string();
                    self.problem(identity.span(), "E0181", message, help);
                }
                Security::None
            }
            other => {
                let help = Some(did_you_mean(other, "ways", &["noise", "none"]));
                self.problem(given.span(), "E0181", format!("`{}` secures nothing", printable(other)), help);
                Security::Noise
            }
        }
    }

    /// Public keys of a table's devices; none if nothing is said or that is wrong.
    pub(super) fn identities(&mut self, given: Option<&Spanned<Identities>>, count: usize) -> Vec<[u8; KEY_BYTES]> {
        let Some(given) = given else { return Vec::new() };
        let list = match given.get_ref() {
            Identities::One(one) => std::slice::from_ref(one),
            Identities::Each(list) => list.as_slice(),
        };
        let keys: Vec<Option<[u8; KEY_BYTES]>> = list.iter().map(|text| key(text)).collect();
        let wrong = list.iter().zip(&keys).find(|(_, key)| key.is_none());
        let twice = (1..keys.len()).any(|at| keys[..at].contains(&keys[at]));
        let message = match wrong {
            _ if list.len() != count => format!("{} public keys are given for {count} devices", list.len()),
            Some((text, _)) => format!("`{}` is not a public key", printable(text)),
            None if twice => "two devices have one key".to_string(),
            None => return keys.into_iter().flatten().collect(),
        };
        let help =
            "write what `PROGRAM keygen` has printed on the device, 64 hexadecimal digits; a list for several devices";
        self.problem(given.span(), "E0181", message, Some(help.to_string()));
        Vec::new()
    }
}
