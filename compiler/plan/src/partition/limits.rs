//! What a device has left for a network.

use partita_config::{Device, System};

/// Room kept for the code of firmware, beside its weights.
const FIRMWARE_CODE_BYTES: u64 = 48 << 10;

/// Room kept for the code of a Linux process, Rust's standard library included.
const PROCESS_CODE_BYTES: u64 = 480 << 10;

/// Room kept for static data other than the arena.
const STATIC_BYTES: u64 = 4 << 10;

/// RAM of a device after what every program needs; on Linux the code is in RAM too.
pub fn ram_bytes(device: &Device) -> u64 {
    let stack = device.target.memory_map.as_ref().map_or(0, |map| map.stack_bytes);
    let code = match device.target.system {
        System::Linux => PROCESS_CODE_BYTES,
        System::CortexM => 0,
    };
    device.ram_bytes.saturating_sub(stack + STATIC_BYTES + code)
}

/// Flash of a device after its code.
pub fn flash_bytes(device: &Device) -> u64 {
    let code = match device.target.system {
        System::Linux => PROCESS_CODE_BYTES,
        System::CortexM => FIRMWARE_CODE_BYTES,
    };
    device.flash_bytes.saturating_sub(code)
}
