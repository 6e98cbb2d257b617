//! What the programs of the benches share.
