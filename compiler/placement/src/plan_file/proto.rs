//! The messages of `proto/plan.proto`, as prost reads and writes them. A test holds the two against each other, so that
//! nobody who builds the compiler needs a compiler of protobuf.

#[derive(Clone, PartialEq, prost::Message)]
pub struct Plan {
    /// SHA-256 over the simplified graph's text with all constants.
    #[prost(bytes = "vec", tag = "1")]
    pub model_digest: Vec<u8>,
    /// Version of the compiler that wrote it.
    #[prost(string, tag = "2")]
    pub compiler: String,
    #[prost(string, tag = "3")]
    pub cluster: String,
    #[prost(message, repeated, tag = "4")]
    pub devices: Vec<Device>,
    #[prost(string, tag = "5")]
    pub objective: String,
    #[prost(bool, tag = "6")]
    pub optimal: bool,
    #[prost(double, tag = "7")]
    pub gap: f64,
    #[prost(double, tag = "8")]
    pub latency_ms: f64,
    #[prost(double, tag = "9")]
    pub throughput_hz: f64,
    #[prost(uint64, tag = "10")]
    pub traffic_bytes: u64,
    #[prost(double, tag = "11")]
    pub energy_mj: f64,
    /// In topological order.
    #[prost(message, repeated, tag = "12")]
    pub nodes: Vec<Node>,
    #[prost(message, repeated, tag = "13")]
    pub programs: Vec<Program>,
    /// Runs of nodes that are computed some rows at a time.
    #[prost(message, repeated, tag = "14")]
    pub stripes: Vec<Stripes>,
    /// Smaller routes through the network, over the same weights.
    #[prost(message, repeated, tag = "15")]
    pub routes: Vec<Route>,
    /// When each is taken.
    #[prost(message, repeated, tag = "16")]
    pub conditions: Vec<Condition>,
    /// What travels in fewer bytes than it is computed in.
    #[prost(message, repeated, tag = "17")]
    pub encodings: Vec<Encoding>,
    /// Whether tensors travel while devices compute.
    #[prost(bool, tag = "18")]
    pub overlaps: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Encoding {
    /// Name of the tensor, in the graph before it is rounded.
    #[prost(string, tag = "1")]
    pub tensor: String,
    /// What stands for an element: f16, or int8.
    #[prost(string, tag = "2")]
    pub encoding: String,
    /// With int8: the step, and its smallest and largest multiple.
    #[prost(float, tag = "3")]
    pub step: f32,
    #[prost(sint32, tag = "4")]
    pub low: i32,
    #[prost(sint32, tag = "5")]
    pub high: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Route {
    #[prost(string, tag = "1")]
    pub name: String,
    /// In topological order of what is left.
    #[prost(message, repeated, tag = "2")]
    pub nodes: Vec<Node>,
    #[prost(message, repeated, tag = "3")]
    pub programs: Vec<Program>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Condition {
    /// Numbers of devices that are gone.
    #[prost(uint32, repeated, tag = "1")]
    pub missing: Vec<u32>,
    /// Payload bytes per second of each medium.
    #[prost(double, repeated, tag = "2")]
    pub bytes_per_second: Vec<f64>,
    /// 0 is the whole network.
    #[prost(uint32, tag = "3")]
    pub route: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Stripes {
    /// Position of the first node among the plan's nodes, and how many follow each other.
    #[prost(uint32, tag = "1")]
    pub first: u32,
    #[prost(uint32, tag = "2")]
    pub nodes: u32,
    /// Turns in which the rows are made.
    #[prost(uint32, tag = "3")]
    pub count: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Device {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub target: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Node {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub op: String,
    #[prost(message, optional, tag = "3")]
    pub strategy: Option<Strategy>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Strategy {
    /// whole, replicated, lop, lip, spatial or ftp.
    #[prost(string, tag = "2")]
    pub method: String,
    /// The part of the first result that each device has afterwards.
    #[prost(message, repeated, tag = "3")]
    pub outputs: Vec<Part>,
    /// With lip: the part of the first operand from which each device computes its partial sum.
    #[prost(message, repeated, tag = "4")]
    pub partial_sums: Vec<Part>,
    /// Operands that travel in several steps, in order.
    #[prost(message, repeated, tag = "5")]
    pub relays: Vec<Relay>,
    /// Pieces in which each device computes its part, what others need first; 0 is one.
    #[prost(uint32, tag = "6")]
    pub pieces: u32,
}

/// A box of a tensor on a device: begin <= index < end on every axis.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Part {
    #[prost(uint32, tag = "1")]
    pub device: u32,
    #[prost(uint32, repeated, tag = "2")]
    pub begin: Vec<u32>,
    #[prost(uint32, repeated, tag = "3")]
    pub end: Vec<u32>,
}

/// The sharding through which an operand travels.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Relay {
    #[prost(uint32, tag = "1")]
    pub operand: u32,
    #[prost(message, repeated, tag = "2")]
    pub parts: Vec<Part>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Program {
    #[prost(uint32, tag = "1")]
    pub device: u32,
    #[prost(uint64, tag = "2")]
    pub arena_bytes: u64,
    #[prost(uint64, tag = "3")]
    pub weights_bytes: u64,
    #[prost(bytes = "vec", tag = "4")]
    pub weights_digest: Vec<u8>,
    #[prost(message, repeated, tag = "5")]
    pub buffers: Vec<Buffer>,
    #[prost(message, repeated, tag = "6")]
    pub steps: Vec<Step>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Buffer {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub element: String,
    #[prost(uint64, repeated, tag = "3")]
    pub shape: Vec<u64>,
    /// Channels per block; 0 for plain row-major.
    #[prost(uint32, tag = "4")]
    pub block: u32,
    #[prost(uint64, tag = "5")]
    pub offset_bytes: u64,
    #[prost(uint64, tag = "6")]
    pub elements: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Step {
    #[prost(oneof = "step::Kind", tags = "1, 2, 3, 4, 7, 8, 9")]
    pub kind: Option<step::Kind>,
}

/// What a step may be.
pub mod step {
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Kind {
        #[prost(message, tag = "1")]
        Kernel(super::Call),
        #[prost(message, tag = "2")]
        Reference(super::Call),
        #[prost(message, tag = "3")]
        Reorder(super::Move),
        #[prost(message, tag = "4")]
        Copy(super::Move),
        #[prost(message, tag = "7")]
        Exchange(super::Exchange),
        #[prost(message, tag = "8")]
        Leave(super::Leave),
        #[prost(message, tag = "9")]
        Start(super::Exchange),
    }
}

/// The inference ends at an exit if the verdict says so.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Leave {
    #[prost(uint32, tag = "1")]
    pub exit: u32,
    /// Buffer of two floats: 1 to leave, and the confidence.
    #[prost(uint32, tag = "2")]
    pub verdict: u32,
    /// Buffer of the answer, on the device that wants it.
    #[prost(uint32, optional, tag = "3")]
    pub answer: Option<u32>,
}

/// What is sent and received at the same time.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Exchange {
    #[prost(message, repeated, tag = "1")]
    pub sends: Vec<Message>,
    #[prost(message, repeated, tag = "2")]
    pub receives: Vec<Message>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Call {
    #[prost(string, tag = "1")]
    pub node: String,
    /// Name of the kernel or operator.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Indices of buffers, outputs last.
    #[prost(uint32, repeated, tag = "3")]
    pub buffers: Vec<u32>,
    /// Names of further nodes that the kernel computes, from the first one's result.
    #[prost(string, repeated, tag = "4")]
    pub fused: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Move {
    /// Missing when a constant is copied.
    #[prost(uint32, optional, tag = "1")]
    pub from: Option<u32>,
    #[prost(uint32, tag = "2")]
    pub to: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Message {
    #[prost(uint32, tag = "1")]
    pub peer: u32,
    #[prost(uint32, tag = "2")]
    pub number: u32,
    #[prost(uint32, tag = "3")]
    pub buffer: u32,
    #[prost(uint64, tag = "4")]
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    /// What decides how a field is written: its message, name, number, kind, and whether there are many or it may be missing.
    type Field = (String, String, u32, String, &'static str);

    /// The fields of a schema, in the subset of the language that ours is written in.
    fn fields_of_schema(text: &str) -> Vec<Field> {
        let mut fields = Vec::new();
        let (mut message, mut is_choice) = (String::new(), false);
        for line in text.lines().map(str::trim) {
            let words: Vec<&str> = line.trim_end_matches(';').split_whitespace().collect();
            match words[..] {
                ["message", name, "{"] => message = name.to_string(),
                ["oneof", _, "{"] => is_choice = true,
                ["}"] => is_choice = false,
                [.., kind, name, "=", number] if !line.starts_with("syntax") => {
                    let label = match words[0] {
                        "repeated" => "repeated",
                        "optional" => "optional",
                        _ if is_choice => "choice",
                        _ => "",
                    };
                    let number = number.parse().expect("fields have numbers");
                    fields.push((message.clone(), name.to_string(), number, kind.to_string(), label));
                }
                _ => {}
            }
        }
        fields
    }

    /// The fields of this file.
    fn fields_of_messages(text: &str) -> Vec<Field> {
        let text = text.split("#[cfg(test)]").next().expect("the messages come first");
        let mut fields = Vec::new();
        let (mut message, mut attribute) = (String::new(), "");
        for line in text.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix("pub struct ") {
                message = name.trim_end_matches(" {").to_string();
            } else if let Some(inner) = line.strip_prefix("#[prost(") {
                attribute = inner.trim_end_matches(")]");
            } else if !attribute.is_empty() {
                let words: Vec<&str> = attribute.split(", ").collect();
                let number = attribute.split("tag = \"").nth(1).and_then(|rest| rest.strip_suffix('"'));
                let Some(number) = number.and_then(|number| number.parse().ok()) else {
                    attribute = ""; // the field that holds a choice
                    continue;
                };
                let (name, of) = match line.trim_start_matches("pub ").split_once(": ") {
                    Some((name, of)) => (name.to_string(), of),
                    None => {
                        let (name, of) = line.split_once('(').expect("a variant holds a message");
                        (name.to_lowercase(), of)
                    }
                };
                let is_many = words.contains(&"repeated");
                let is_message = words[0] == "message";
                let kind = match words[0].split(' ').next() {
                    Some("message") => of
                        .trim_end_matches([',', ')', '>'])
                        .trim_start_matches("Vec<")
                        .trim_start_matches("Option<")
                        .trim_start_matches("super::"),
                    Some(kind) => kind,
                    None => "",
                };
                let label = if is_many {
                    "repeated"
                } else if of.starts_with("Option<") && !is_message {
                    "optional"
                } else if !line.starts_with("pub ") {
                    "choice"
                } else {
                    ""
                };
                fields.push((message.clone(), name, number, kind.to_string(), label));
                attribute = "";
            }
        }
        fields
    }

    #[test]
    fn the_messages_are_those_of_the_schema() {
        let mut schema = fields_of_schema(include_str!("../../proto/plan.proto"));
        let mut messages = fields_of_messages(include_str!("proto.rs"));
        assert!(schema.len() > 50, "{schema:?}");
        // A choice comes behind the message that holds it.
        for fields in [&mut schema, &mut messages] {
            fields.sort();
        }
        assert_eq!(schema, messages);
    }
}
