//! The hostmount binary.
fn main() {}
