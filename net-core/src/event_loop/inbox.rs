//! What comes into the loop from elsewhere: orders, arrivals, mail and timers.

use super::{EventLoop, guard};
use crate::accept::admission::Arrival;
use crate::accept::listener::BACKLOG_MAX;
use crate::api::handler::{Handler, Peer};
use crate::api::loop_context::LoopContext;
use crate::api::loop_spawner::Task;
use crate::base::close_reason::{Callback, CloseReason, RefuseReason};
use crate::base::id::ConnId;
use crate::config::policy::OverflowPolicy;
use crate::connection::life::State;
use crate::connection::loop_state::Way;
use crate::connection::slot::{Filed, Status};
use crate::driver::Driver;
use crate::observe::counters::Counter;
use crate::sys::addr::Addr;
use crate::sys::{Errno, Socket};
use crate::threads::control::Phase;
use crate::threads::mail::Mail;
use net_buffer::Unread;
use net_timer::Tick;
use std::sync::atomic::Ordering;

impl<H: Handler, D: Driver> EventLoop<H, D> {
    /// Reads the control word, and carries the order out for some more connections.
    pub(super) fn obey(&mut self) {
        let phase = self.state.inbox.control.phase();
        if phase > self.phase {
            tracing::debug!(in_loop = self.state.number, ?phase, "a new phase");
            self.phase = phase;
            self.begin_drain_notice();
            self.end_listening();
            self.end_datagrams();
        }
        if self.phase > Phase::Run {
            self.obey_on();
        }
    }

    /// Carries out what an order asks for over some turns.
    #[cold]
    fn obey_on(&mut self) {
        if self.drain_notice.is_some() {
            self.notify_more();
        }
        if !self.last_arrivals.is_empty() {
            self.take_last_arrivals();
        }
    }

    /// Takes new connections, by queue, fd channel, or from listeners of its own.
    pub(super) fn take_arrivals(&mut self) {
        self.accept_own();
        if self.fd_channel.is_some() {
            self.take_from_fd_channel();
        } else if !self.saw_the_end {
            if self.state.inbox.arrivals.is_empty()
                && !self.state.inbox.arrivals_ended.load(Ordering::Relaxed)
            {
                return; // as in most turns: two loads, where pop would cost a fence
            }
            // The end is stored after the last arrival. So it is read first: then it holds for the queue.
            let ended = self.state.inbox.arrivals_ended.load(Ordering::Acquire);
            let most = self.state.a_few(self.state.limits.arrivals_per_turn);
            let mut taken = 0;
            while taken < most {
                let Some(arrival) = self.state.inbox.arrivals.pop() else {
                    self.saw_the_end = ended;
                    break;
                };
                self.adopt(arrival);
                taken += 1;
            }
            if taken > 0 {
                self.state.inbox.counters.add(Counter::HandedOver, taken as u64);
                self.took(taken as u64);
            }
        }
    }

    /// Says that `arrivals` are in the table now, or refused. The acceptor counts the arrivals on their way.
    fn took(&mut self, arrivals: u64) {
        self.taken += arrivals;
        let inbox = &self.state.inbox;
        inbox.counters.set(Counter::Open, self.state.table.len() as u64);
        // After the open count, which includes them: see `Inbox::taken`.
        inbox.taken.store(self.taken, Ordering::Release);
    }

    #[inline(never)] // its message buffer would be on the turn's stack
    fn take_from_fd_channel(&mut self) {
        let Some(mut fd_channel) = self.fd_channel.take() else { return };
        let mut arrivals = std::mem::take(&mut self.batch);
        let brought = fd_channel.take(&self.shared.admission, &mut arrivals);
        for arrival in arrivals.drain(..) {
            self.adopt(arrival);
        }
        self.batch = arrivals;
        if brought.carried > 0 {
            self.took(brought.carried);
            let counters = &self.state.inbox.counters;
            counters.add(Counter::HandedOver, brought.carried - brought.lost);
            if brought.lost > 0 {
                counters.add(Counter::LostOnTheWay, brought.lost);
                for _ in 0..brought.lost {
                    counters.closed(CloseReason::Machine(Errno::MFILE));
                }
                if let Some(held_back) = self.trouble.allow(self.state.now) {
                    tracing::error!(
                        in_loop = self.state.number,
                        lost = brought.lost,
                        held_back,
                        "connections found no descriptor here and were closed on their way"
                    );
                }
            }
        }
        self.saw_the_end = brought.is_the_end || self.saw_the_end;
        self.fd_channel = Some(fd_channel);
    }

    /// Accepts from the loop's own listeners (`SO_REUSEPORT`).
    fn accept_own(&mut self) {
        for n in 0..self.listeners.len() {
            self.accept_own_batch(n);
        }
    }

    fn accept_own_batch(&mut self, n: usize) {
        if !self.listeners[n].may_accept(self.state.now) {
            return;
        }
        let mut accepted = std::mem::take(&mut self.batch);
        let now = self.state.now;
        let (limits, admission) = (&self.state.limits, &self.shared.admission);
        let (driver, counters) = (&mut self.driver, &self.state.inbox.counters);
        let most = self.state.a_few(limits.arrivals_per_turn);
        self.listeners[n].accept(driver, now, limits, most, counters, admission, &mut accepted);
        for arrival in accepted.drain(..) {
            self.adopt(arrival);
        }
        self.batch = accepted;
    }

    /// Accepts what is left in the listeners' backlogs, then shuts the listeners. That is a system call for
    /// each client. The clients enter the table over the next turns, with all that this costs.
    fn end_listening(&mut self) {
        let (limits, admission) = (&self.state.limits, &self.shared.admission);
        let (driver, counters) = (&mut self.driver, &self.state.inbox.counters);
        // No more than a full backlog: a flood must not keep the loop here.
        let batches = BACKLOG_MAX / limits.accepts_per_turn + 1;
        for listening in &mut self.listeners {
            listening.last_call();
            for _ in 0..batches {
                let now = self.state.now;
                listening.accept(
                    driver,
                    now,
                    limits,
                    BACKLOG_MAX,
                    counters,
                    admission,
                    &mut self.batch,
                );
            }
            listening.shut(driver);
        }
        self.last_arrivals.extend(self.batch.drain(..));
    }

    /// Lets some of the clients in that were accepted when the listeners were shut.
    #[cold]
    fn take_last_arrivals(&mut self) {
        let few = self.state.a_few(self.state.limits.arrivals_per_turn);
        for _ in 0..few.saturating_add(self.last_arrivals.len() / 8) {
            let Some(arrival) = self.last_arrivals.pop_front() else { return };
            self.adopt(arrival);
        }
    }

    /// A new connection enters the table. If a proxy is to announce the client, the connection waits for its
    /// PROXY header first.
    fn adopt(&mut self, arrival: Arrival) {
        if self.phase >= Phase::ForceClose {
            let why = if self.phase == Phase::ForceClose {
                CloseReason::DrainDeadline
            } else {
                CloseReason::Stopped
            };
            return self.refuse(arrival.socket, why);
        }
        if arrival.is_announced {
            return self.hear(arrival);
        }
        self.let_in(arrival, None, &[]);
    }

    /// The only way in for an arrival: asks `admit`, enters it into the table, attaches it to the driver,
    /// calls `on_open`. `client`: the address that a proxy has announced. `early`: bytes of the client that
    /// came with the PROXY header.
    pub(super) fn let_in(&mut self, arrival: Arrival, client: Option<Addr>, early: &[u8]) {
        let Arrival { socket, peer, permit, .. } = arrival;
        let is_tcp = peer.inet().is_some();
        let addr = client.clone().unwrap_or(peer);
        self.runs(Callback::Admit, None);
        let admitted = guard(|| self.handler.admit(&Peer { addr }));
        let Some(session) = admitted else {
            self.count_panic(Callback::Admit, None);
            return self.refuse(socket, CloseReason::Panicked(Callback::Admit));
        };
        let Some(session) = session else {
            return self.refuse(socket, CloseReason::Refused(RefuseReason::Handler));
        };
        if permit.is_over() && !self.evict_idle() {
            return self.refuse_with(socket, session, CloseReason::Refused(RefuseReason::Full));
        }
        let Some(id) = self.enter(socket, State::Open, session) else { return };
        if let Some(source) = permit.keep() {
            self.state.comes_from(id, source);
        }
        if let Some(client) = client {
            self.state.clients.insert(id, client);
        }
        if !is_tcp {
            self.read_to_the_end(id);
        }
        if !self.watch(id) {
            return;
        }
        self.start_idling(id);
        if !early.is_empty() {
            self.keep_early(id, early);
        }
        self.call(id, Callback::Open, |handler, conn| handler.on_open(conn));
        self.after(id);
        if self.phase > Phase::Run {
            self.notify(id);
        }
    }

    /// The connection is not TCP: a short receive does not prove that nothing more is there.
    fn read_to_the_end(&mut self, id: ConnId) {
        if let Some(head) = self.state.head(id) {
            head.link.read_to_the_end();
        }
    }

    fn enter(&mut self, socket: Socket, state: State, session: H::Session) -> Option<ConnId> {
        match self.state.table.insert(socket, state, session) {
            Ok(id) => Some(id),
            Err((socket, session, why)) => {
                if let CloseReason::Machine(errno) = why
                    && let Some(held_back) = self.trouble.allow(self.state.now)
                {
                    tracing::warn!(%errno, held_back, "no memory for a new connection's entry");
                }
                self.refuse_with(socket, session, why);
                None
            }
        }
    }

    /// There is no place for the connection after all.
    fn refuse_with(&mut self, socket: Socket, session: H::Session, why: CloseReason) {
        self.refuse(socket, why);
        self.drop_of_user(session);
    }

    /// Keeps bytes that were received with the PROXY header: the handler gets them as after a resume.
    fn keep_early(&mut self, id: ConnId, early: &[u8]) {
        self.first_byte(id);
        let Some(connection) = self.state.table.get(id) else { return };
        let unread = Unread::keep(early, &mut self.state.outbox.pool, usize::MAX);
        let head = &mut connection.head;
        head.cold().unread = Some(unread.expect("there is no limit here"));
        head.status.set(Status::UNREAD);
        self.read_on(id);
    }

    /// Attaches a new connection to the driver. False if the kernel refused: then the connection is over.
    fn watch(&mut self, id: ConnId) -> bool {
        let Some(head) = self.state.head(id) else { return false };
        match self.driver.attach(id.token(), &head.socket) {
            Ok(()) => true,
            Err(errno) => {
                if let Some(held_back) = self.trouble.allow(self.state.now) {
                    tracing::warn!(%id, %errno, held_back, "a new connection is not watched");
                }
                self.failed(id, errno);
                false
            }
        }
    }

    /// The first deadline of an open connection.
    fn start_idling(&mut self, id: ConnId) {
        self.begin_lifetime(id);
        for (way, rate) in
            [(Way::In, self.state.limits.receive_rate), (Way::Out, self.state.limits.send_rate)]
        {
            if rate.is_some() {
                self.state.limit(id, way, rate);
            }
        }
        let idle = self.state.idle_deadline;
        let first_byte = self.state.limits.first_byte_timeout.map(|t| self.state.now.after(t));
        match first_byte {
            Some(first_byte) if first_byte <= self.state.idle_end() => {
                if let Some(head) = self.state.head(id) {
                    head.status.set(Status::FIRST_BYTE);
                }
                self.state.refile(id, first_byte);
            }
            _ => self.state.refile(id, idle),
        }
    }

    // --- mail ----------------------------------------------------------------------------------

    /// Takes mail, up to the turn's budget. What is left keeps the loop from sleeping.
    pub(super) fn take_mail(&mut self) {
        if self.state.inbox.mail.is_empty() {
            return; // as in most turns: two loads, where pop would cost a fence
        }
        let mut taken = 0;
        while taken < self.state.limits.mail_per_turn as u64 {
            let Some(mail) = self.state.inbox.mail.take() else { break };
            taken += 1;
            if !matches!(mail, Mail::Broadcast(_)) {
                self.state.inbox.mail_weight.leave(mail.weight()); // a broadcast leaves when it is over
            }
            self.read(mail);
        }
        taken += self.take_mail_beyond();
        let inbox = &self.state.inbox;
        inbox.counters.add(Counter::Mail, taken);
        inbox.counters.set(Counter::Mailbox, inbox.mail.len() as u64);
        self.mail_is_read(taken);
    }

    /// Takes what was posted while the mailbox was full, with a budget of its own. It is taken after the
    /// mail, as the mailbox asks for.
    fn take_mail_beyond(&mut self) -> u64 {
        let mut taken = 0;
        while let Some(mail) = self.state.inbox.mail.take_beyond() {
            taken += 1;
            self.read(mail);
            if taken == self.state.limits.mail_per_turn as u64 {
                // So that the loop looks again. If the mailbox is full, the loop looks because of that mail.
                let _ = self.state.inbox.mail.post(Mail::Beyond);
                break;
            }
        }
        taken
    }

    fn read(&mut self, mail: Mail<H::Message>) {
        match mail {
            Mail::Message(message) => {
                self.runs(Callback::Message, None);
                let (handler, state) = (&mut self.handler, &mut self.state);
                if guard(|| handler.on_message(&mut LoopContext::new(state), message)).is_none() {
                    self.state.inbox.counters.add(Counter::MailLost, 1);
                    self.count_panic(Callback::Message, None);
                }
            }
            Mail::Bytes(id, bytes) => self.sent_from_afar(id, bytes, OverflowPolicy::Close),
            Mail::BytesOr(addressed) => {
                let (id, bytes, at_limit) = *addressed;
                self.sent_from_afar(id, bytes, at_limit);
            }
            Mail::Arrival(arrival) => {
                self.state.inbox.counters.add(Counter::Adopted, 1);
                self.adopt(*arrival);
            }
            Mail::Ask(asked) => self.asked(asked),
            Mail::Resolved(answer) => self.resolved(*answer),
            Mail::Beyond => {} // what it announces is taken after the mail
            Mail::Broadcast(part) => self.broadcast(part),
            Mail::Task(task) => {
                self.perform(*task.downcast().expect("a runner is of its server's handler"));
            }
            Mail::Close(id) => {
                self.state.with(id, |outbox, head| {
                    if head.status.state() != State::Dead {
                        outbox.wish(head, id, Status::WISH_CLOSE);
                    }
                });
            }
        }
    }

    fn perform(&mut self, task: Task<H>) {
        match task {
            Task::OfLoop(work) => {
                self.runs(Callback::Message, None);
                let (handler, state) = (&mut self.handler, &mut self.state);
                if guard(|| work(handler, &mut LoopContext::new(state))).is_none() {
                    self.state.inbox.counters.add(Counter::MailLost, 1);
                    self.count_panic(Callback::Message, None);
                }
            }
            Task::OfConnection(id, answer) if self.lives(id) => {
                self.state.job_done(id);
                self.call(id, Callback::Answer, |_, conn| answer(conn));
                self.after(id);
            }
            Task::GivenUp(id) => {
                self.state.job_done(id);
                self.look_again(id);
            }
            Task::OfConnection(_, answer) => self.drop_of_user(answer),
        }
    }

    // --- timers --------------------------------------------------------------------------------

    /// Fires what is due, within the turn's budget. What is left is due at the next wait, which
    /// then does not sleep.
    pub(super) fn fire_due(&mut self) {
        let now = self.state.now;
        if self.next_due <= now {
            self.serve_due();
        }
        let budget = self.state.limits.timers_per_turn;
        let mut looked = 0;
        while looked < budget {
            let Some(tag) = self.state.timers.pop_due(now, &mut looked, budget) else { break };
            self.state.tally.fired += 1;
            self.runs(Callback::Timer, None);
            let (handler, state) = (&mut self.handler, &mut self.state);
            if guard(|| handler.on_timer(&mut LoopContext::new(state), tag)).is_none() {
                self.state.inbox.counters.add(Counter::MailLost, 1);
                self.count_panic(Callback::Timer, None);
            }
        }
        let mut left = budget;
        while left > 0 {
            left -= 1;
            let entries = &mut Filed(&mut self.state.table);
            let Some(slot) = self.state.wheel.pop_due(entries, now) else { break };
            let Some(id) = self.state.table.id_of(slot) else { continue };
            let Some(head) = self.state.head(id) else { continue };
            let deadline = head.deadline;
            if deadline > now {
                // The deadline was moved later meanwhile, by a store: file it where it belongs now.
                if deadline < Tick::MAX {
                    self.state.wheel.insert(&mut Filed(&mut self.state.table), slot, deadline);
                }
            } else {
                // A deadline counts as so many looks that `few` deadlines are the whole budget.
                let few = self.state.a_few(self.state.limits.endings_per_turn);
                left = left.saturating_sub(budget / few);
                self.deadline(id);
            }
        }
    }
}
