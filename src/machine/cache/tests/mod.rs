//! The tables against the specification, the machines' effects, and what each protocol costs.

mod costs;
mod directory;
mod lines;
mod moves;
mod successions;
mod tables;
mod values;
