//! Compiles the model for the device that this application runs on.

fn main() -> anyhow::Result<()> {
    partita::Build::new("model.onnx").targets("cluster.toml").device("cam").emit()
}
