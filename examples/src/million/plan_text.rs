//! The plan in five lines, as it is printed before a run.

use std::fmt;

use super::asked::Role;
use super::figures::{bytes, counted, grouped};
use super::plan::Plan;
use super::sources::loopback_source;
use super::tables::{FdTable, Tables};
use super::walls::WallFound;

impl fmt::Display for Plan {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match self.role {
            Role::Both => "both ends on this machine",
            Role::Server => "the server's end on this machine",
            Role::Swarm { .. } => "the clients' end on this machine",
        };
        writeln!(out, "plan    {}, {place}", counted(self.connections, "connection"))?;
        if let Some(server) = &self.server {
            writeln!(out, "server  {}, accept by {}", words_of(server), self.accept)?;
        }
        if let Some(swarm) = &self.swarm {
            writeln!(out, "swarm   {}{}", words_of(swarm), self.words_of_sources())?;
        }
        let memory = &self.prediction;
        write!(out, "memory  {} expected: ", bytes(memory.total_bytes()))?;
        write!(out, "kernel {}", bytes(memory.kernel_bytes))?;
        if self.server.is_some() {
            write!(out, ", server {}", bytes(memory.user_bytes))?;
        }
        if self.swarm.is_some() {
            write!(out, ", swarm {}", bytes(memory.swarm_bytes))?;
        }
        let WallFound { name, allows, way_out } = &self.first_wall;
        write!(out, "\nwall    {name}, at {}: {way_out}", grouped(*allows))
    }
}

impl Plan {
    fn words_of_sources(&self) -> String {
        if self.role != Role::Both {
            return String::new();
        }
        let Some(last) = self.shares().last().map(|share| share.first_source + share.sources)
        else {
            return String::new();
        };
        let (first, last) = (loopback_source(0), loopback_source(last - 1));
        format!(", from {first} to {last}, ≤ {} each", grouped(self.connections_per_source))
    }
}

fn words_of(tables: &Tables) -> String {
    let loops = counted(u64::from(tables.loops), "loop");
    let places = grouped(tables.places());
    match tables.fd_table {
        FdTable::Shared => format!("{loops}, one shared table of {places} places"),
        FdTable::PerLoop => {
            format!("{loops} × {} places = {places}", grouped(tables.places_per_table))
        }
    }
}
