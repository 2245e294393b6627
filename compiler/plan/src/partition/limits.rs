//! What a device has left for a network.

use partita_config::{Device, System};

/// Room kept for the code of firmware, beside its weights: the node's is half of it.
const FIRMWARE_CODE_BYTES: u64 = 72 << 10;

/// Room kept for the code of a Linux process, Rust's standard library included.
const PROCESS_CODE_BYTES: u64 = 480 << 10;

/// Room kept for static data other than the arena.
const STATIC_BYTES: u64 = 4 << 10;

/// The same of firmware: the node is there, too.
const FIRMWARE_STATIC_BYTES: u64 = 6 << 10;

/// Static data of each link of firmware.
const FIRMWARE_LINK_BYTES: u64 = 2560;

/// RAM of a microcontroller's program beside its arena: what `links` of a node take, and an input of `input_bytes` that is
/// kept until it is answered, since it may have to be tried again.
pub fn firmware_bytes(links: usize, input_bytes: usize) -> u64 {
    links as u64 * FIRMWARE_LINK_BYTES + if links > 0 { input_bytes as u64 } else { 0 }
}

/// RAM of a device after what every program needs; on Linux the code is in RAM too.
pub fn ram_bytes(device: &Device) -> u64 {
    let stack = device.target.memory_map.as_ref().map_or(0, |map| map.stack_bytes);
    let taken = match device.target.system {
        System::Linux => PROCESS_CODE_BYTES + STATIC_BYTES,
        System::CortexM => FIRMWARE_STATIC_BYTES,
    };
    device.ram_bytes.saturating_sub(stack + taken)
}

/// Flash of a device after its code.
pub fn flash_bytes(device: &Device) -> u64 {
    let code = match device.target.system {
        System::Linux => PROCESS_CODE_BYTES,
        System::CortexM => FIRMWARE_CODE_BYTES,
    };
    device.flash_bytes.saturating_sub(code)
}
