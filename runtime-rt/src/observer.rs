//! Who looks at a program while it runs.

/// Is told after each step of a program; for profiles.
pub trait Observer {
    /// Step `index` is done.
    fn step(&mut self, index: usize);
}

impl Observer for () {
    fn step(&mut self, _index: usize) {}
}
