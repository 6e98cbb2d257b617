//! Gives the jobs of a loop their slices.

use super::{EventLoop, guard};
use crate::api::handler::Handler;
use crate::api::loop_context::LoopContext;
use crate::api::slices::{Job, Slice};
use crate::base::close_reason::Callback;
use crate::base::id::ConnId;
use crate::connection::life::State;
use crate::driver::Driver;
use crate::observe::counters::Counter;
use crate::threads::control::Phase;

impl<H: Handler, D: Driver> EventLoop<H, D> {
    /// Runs slices of the jobs in rotation, for the time that a turn has for slices, and within a budget of
    /// slices. Without that budget, slices that take almost no time would be very many.
    #[cold]
    #[inline(never)]
    pub(super) fn run_slices(&mut self) {
        if self.phase >= Phase::ForceClose {
            return self.drop_jobs();
        }
        let time = u64::try_from(self.state.limits.slice_time_per_turn.as_nanos());
        let until = self.driver.nanos().saturating_add(time.unwrap_or(u64::MAX));
        for _ in 0..self.state.limits.deferred_per_turn {
            let Some(job) = self.state.jobs.pop_front() else { break };
            let mut job = Job::from_any(job);
            if self.slice(&mut job) == Slice::More {
                self.state.jobs.push_back(Box::new(job));
            } else {
                self.drop_job(job);
            }
            if self.driver.nanos() >= until {
                break;
            }
        }
        self.state.inbox.counters.set(Counter::Jobs, self.state.jobs.len() as u64);
    }

    fn slice(&mut self, job: &mut Job<H>) -> Slice {
        self.state.inbox.counters.add(Counter::Slices, 1);
        match job {
            Job::OfLoop(job) => {
                self.runs(Callback::Job, None);
                let (handler, state) = (&mut self.handler, &mut self.state);
                guard(|| job(handler, &mut LoopContext::new(state))).unwrap_or_else(|| {
                    self.count_panic(Callback::Job, None);
                    Slice::Done
                })
            }
            Job::OfConnection(id, job) => {
                if !self.lives(*id) {
                    self.state.inbox.counters.add(Counter::JobsDropped, 1);
                    return Slice::Done;
                }
                let mut end = Slice::Done; // as after a panic
                self.call(*id, Callback::Job, |handler, conn| end = job(handler, conn));
                if end == Slice::Done {
                    self.state.job_done(*id);
                }
                self.after(*id);
                end
            }
        }
    }

    pub(super) fn lives(&mut self, id: ConnId) -> bool {
        self.state.head(id).is_some_and(|head| head.status.state() != State::Dead)
    }

    pub(super) fn drop_jobs(&mut self) {
        let jobs = std::mem::take(&mut self.state.jobs);
        self.state.inbox.counters.add(Counter::JobsDropped, jobs.len() as u64);
        self.state.inbox.counters.set(Counter::Jobs, 0);
        for job in jobs {
            self.drop_job(Job::from_any(job));
        }
    }

    /// What a job holds is the user's, and so is the drop of it.
    fn drop_job(&mut self, job: Job<H>) {
        self.drop_of_user(job);
    }
}
