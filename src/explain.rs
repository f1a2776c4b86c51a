//! `hostmount explain`: who will see a mount that is made here, and what keeps it from the others.

pub mod judge;
