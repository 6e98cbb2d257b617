//! Queries that only the loops can answer. They are sent by mail, and the wait for the answers is bounded.

use super::http::{Reply, Status};
use super::pages;
use super::watched::Watched;
use crate::base::id::ConnId;
use crate::observe::connection_query::{By, PendingQuery, Query, QueryResult, Row};
use net_timer::Tick;
use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

/// Queries for the largest connections that may be under way at once. Each makes every loop walk over its
/// table.
const QUESTIONS_MAX: usize = 4;
/// Kills under way at once. Each is one step of a loop, and must not wait for such a walk.
const KILLS_MAX: usize = 64;
/// How long loops may take to answer. To rank a million connections by bytes takes some seconds of walking.
/// The answer names the loops that have said nothing by then.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// The most connections that a query may ask for.
pub(super) const TOP_MAX: usize = 1000;

#[derive(Default)]
pub(super) struct Queries(Vec<Open>);

/// A query that not all loops have answered yet.
struct Open {
    asker: Asker,
    question: Query,
    until: Tick,
    /// The loops that have not answered.
    awaited: Vec<(usize, Arc<PendingQuery>)>,
    /// The loops that will never answer.
    silent: Vec<usize>,
    rows: Vec<Row>,
    killed: bool,
}

/// The client that waits, and how the answer is to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Asker {
    pub(super) client: ConnId,
    pub(super) keeps_alive: bool,
    pub(super) is_head: bool,
}

impl Queries {
    /// Asks the loops that the query concerns. `Err`: the reply to send at once instead.
    pub(super) fn ask(
        &mut self,
        server: &dyn Watched,
        now: Tick,
        asker: Asker,
        question: Query,
    ) -> Result<(), Reply> {
        if !self.has_room(question) {
            return Err(Reply::text(Status::Unavailable, "too many questions at once\n"));
        }
        let loops = match question {
            Query::Top { by: By::Cpu, .. } if !server.times_callbacks() => {
                let what = "by=cpu: callbacks are not timed: start it with time_callbacks\n";
                return Err(Reply::text(Status::BadRequest, what));
            }
            Query::Top { .. } => 0..server.loops(),
            Query::Kill(id) if id.in_loop() < server.loops() => id.in_loop()..id.in_loop() + 1,
            Query::Kill(_) => return Err(not_there()),
        };
        let until = now.after(ANSWER_TIME);
        let (awaited, silent, rows) = (Vec::new(), Vec::new(), Vec::new());
        let mut open = Open { asker, question, until, awaited, silent, rows, killed: false };
        for number in loops {
            let asked = PendingQuery::new(question);
            if server.ask(number, Arc::clone(&asked)) {
                open.awaited.push((number, asked));
            } else {
                open.silent.push(number);
            }
        }
        self.0.push(open);
        Ok(())
    }

    fn has_room(&self, question: Query) -> bool {
        let is_kill = |question| matches!(question, Query::Kill(_));
        let kills = self.0.iter().filter(|open| is_kill(open.question)).count();
        match question {
            Query::Kill(_) => kills < KILLS_MAX,
            Query::Top { .. } => self.0.len() - kills < QUESTIONS_MAX,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this client waits for an answer.
    pub(super) fn has_from(&self, client: ConnId) -> bool {
        self.0.iter().any(|open| open.asker.client == client)
    }

    /// This client waits for no answer any more.
    pub(super) fn forget(&mut self, client: ConnId) {
        self.0.retain(|open| open.asker.client != client);
    }

    /// Takes out the queries that are answered or overdue, with their replies.
    pub(super) fn answered(&mut self, now: Tick) -> Vec<(Asker, Reply)> {
        self.0.iter_mut().for_each(|open| open.collect(now));
        let done = self.0.extract_if(.., |open| open.awaited.is_empty());
        done.map(|open| (open.asker, open.reply())).collect()
    }
}

impl Open {
    fn collect(&mut self, now: Tick) {
        let is_over = now >= self.until;
        self.awaited.retain(|(number, asked)| {
            // The order matters: a loop stores its answer before it drops the query.
            let is_gone = asked.is_forgotten();
            match asked.take() {
                Some(QueryResult::Top(rows)) => self.rows.extend(rows),
                Some(QueryResult::Killed(killed)) => self.killed = killed,
                None if is_over || is_gone => self.silent.push(*number),
                None => return true,
            }
            false
        });
    }

    fn reply(mut self) -> Reply {
        match self.question {
            Query::Top { by, most } => {
                self.rows.sort_by_key(|row| Reverse((row.size(by), row.id)));
                self.rows.truncate(most);
                let body = pages::connections(&self.rows, by, &self.silent);
                Reply { kind: pages::KIND, ..Reply::text(Status::Ok, body) }
            }
            Query::Kill(_) if self.killed => Reply::text(Status::Ok, "killed\n"),
            Query::Kill(id) if !self.silent.is_empty() => {
                let what = format!("loop {} does not answer\n", id.in_loop());
                Reply::text(Status::Unavailable, what)
            }
            Query::Kill(_) => not_there(),
        }
    }
}

fn not_there() -> Reply {
    Reply::text(Status::NotFound, "no such connection\n")
}

/// The query that a request for `/connections` asks for. The error says what is wrong with it.
pub(super) fn top(query: &str) -> Result<Query, String> {
    let (mut by, mut most) = (By::Queue, 10);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("by", label)) => match By::ALL.iter().find(|by| by.label() == label) {
                Some(known) => by = *known,
                None => return Err(format!("by={label}: write queue, bytes or cpu\n")),
            },
            Some(("top", n)) => match n.parse() {
                Ok(number @ 1..=TOP_MAX) if !n.starts_with('+') => most = number,
                _ => return Err(format!("top={n}: write a number from 1 to {TOP_MAX}\n")),
            },
            _ => return Err(format!("{pair}: write top=N, by=queue, by=bytes or by=cpu\n")),
        }
    }
    Ok(Query::Top { by, most })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_waits_for_no_walk_and_no_walk_for_a_kill() {
        let id = ConnId::new(0, 1, std::num::NonZeroU32::MIN);
        let (walk, kill) = (Query::Top { by: By::Bytes, most: 1 }, Query::Kill(id));
        let asker = Asker { client: id, keeps_alive: true, is_head: false };
        let ask = |queries: &mut Queries, question| {
            let (awaited, silent, rows) = (Vec::new(), Vec::new(), Vec::new());
            let until = Tick::MAX;
            let open = Open { asker, question, until, awaited, silent, rows, killed: false };
            queries.0.push(open);
        };
        for (many, most, other) in [(walk, QUESTIONS_MAX, kill), (kill, KILLS_MAX, walk)] {
            let mut queries = Queries::default();
            for _ in 0..most {
                assert!(queries.has_room(many), "{many:?}");
                ask(&mut queries, many);
            }
            assert!(!queries.has_room(many) && queries.has_room(other), "{many:?}");
        }
    }

    #[test]
    fn a_query_is_read_whole_or_refused() {
        let of = |by, most| Ok(Query::Top { by, most });
        assert_eq!(top(""), of(By::Queue, 10));
        assert_eq!(top("top=1"), of(By::Queue, 1));
        assert_eq!(top("by=bytes&top=1000&"), of(By::Bytes, TOP_MAX));
        assert_eq!(top("by=cpu"), of(By::Cpu, 10));
        let wrong = ["top=0", "top=1001", "top=-1", "top=+1", "top=", "top"];
        for wrong in wrong.into_iter().chain(["by=", "by=CPU", "by", "x=1"]) {
            assert!(top(wrong).is_err_and(|what| what.contains(wrong)), "{wrong}");
        }
    }
}
