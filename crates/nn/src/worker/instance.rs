//! An instance of a child: hands a call over, and waits for its answer.

use super::answers;
use super::control::{Kind, Note};
use super::process::{ANSWERS, INSTANCE_TIMEOUT, InstanceShared, PATIENCE, Phase};
use super::processor::{self, PinnedThread};
use super::restart::FIRST_WAIT;
use super::shared::{self, BODY, Header, Looks};
use super::wire;
use crate::backend::{Instance, Interrupt};
use crate::error::{EngineRefusal, NnError};
use crate::tensor::NnTensor;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Interval at which a waiting thread checks without being woken. Wake-ups are not lost; this bounds the cost of a
/// fault.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Interval at which a call that waits for a restart checks for an interrupt: well within the grace after which its
/// process would be ended.
pub(super) const LOOK_FOR_INTERRUPT: Duration = Duration::from_millis(100);

pub(super) struct IsolatedInstance {
    pub(super) shared: Arc<InstanceShared>,
    /// The child that has this instance.
    pub(super) attached: u32,
    /// A call that was handed over.
    pub(super) begun: Option<Result<u32, NnError>>,
    /// Whether the last run waited for a child.
    pub(super) waited: bool,
    pub(super) looks: Looks,
    /// The child's thread, if it may be moved.
    pub(super) kept: Option<PinnedThread>,
}

impl IsolatedInstance {
    /// Makes sure that the serving child has this instance. Waits for a child that is started again.
    pub(super) fn attach(&mut self) -> Result<(), NnError> {
        let shared = self.shared.clone();
        let process = &shared.process;
        let up = process.up.load(Ordering::SeqCst);
        if up != 0 && up == self.attached {
            return Ok(());
        }
        self.waited = true;
        self.kept = None;
        let header = shared.header();
        let mut state = process.lock();
        let refused = |reason: &str, wait: Duration| {
            let text = format!(
                "{} cannot answer at the moment: {reason}; try again later",
                process.label
            );
            NnError::refused(EngineRefusal::NotReady, text).retry_after(wait.max(FIRST_WAIT))
        };
        let (control, pid) = loop {
            match &state.phase {
                Phase::Up { control, pid } => break (control.clone(), *pid),
                Phase::Down { until, reason } => {
                    let wait = until.saturating_duration_since(Instant::now());
                    if wait > PATIENCE {
                        return Err(refused(reason, wait));
                    }
                }
                Phase::Starting { .. } => {}
                Phase::Closed => return Err(refused("it is being unloaded", FIRST_WAIT)),
            }
            if shared.is_interrupted() {
                return Err(NnError::runtime("the run was ended early"));
            }
            let waited = process.changed.wait_timeout(state, LOOK_FOR_INTERRUPT);
            state = waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
        };
        self.attached = state.incarnation;
        let call = next_call(header);
        header.call.store(call, Ordering::SeqCst);
        header.answer_in.store(0, Ordering::SeqCst);
        let segments = std::iter::once(&shared.calls).chain(&shared.answers);
        let fds: Vec<BorrowedFd<'_>> = segments.map(|segment| segment.fd()).collect();
        let note = Note {
            kind: Kind::Instance,
            number: shared.number,
            run: 0,
        };
        let sent = control.send(note, &fds);
        drop(state);
        if let Err(error) = sent {
            self.attached = 0;
            return Err(NnError::runtime(format!(
                "the model's process cannot make an instance: {error}"
            )));
        }
        match self.finish(call, Some(INSTANCE_TIMEOUT)) {
            Some(Ok(_)) => {
                if process.start.may_move {
                    self.kept = PinnedThread::new(pid, header.thread.load(Ordering::SeqCst));
                }
                Ok(())
            }
            Some(Err(error)) => {
                self.attached = 0;
                Err(error)
            }
            None => {
                self.attached = 0;
                process.end("it did not make an instance in time".into());
                Err(process.ended())
            }
        }
    }

    /// Hands a call to the child, and returns its number.
    pub(super) fn post(&mut self, inputs: &[NnTensor]) -> Result<u32, NnError> {
        self.attach()?;
        let shared = &self.shared;
        let header = shared.header();
        let size = wire::tensors_size(inputs);
        let grown = shared.calls.grow(BODY + size);
        // SAFETY: the child reads it when it is called, below, and not before.
        let room = || unsafe { shared.calls.bytes_mut(BODY + size) };
        if grown.is_err() || !wire::put_tensors(inputs, &mut room()[BODY..]) {
            return Err(NnError::too_large(format!(
                "the call's inputs take {size} bytes, which is more than a model's process is given at once"
            )));
        }
        header.call_bytes.store(size as u64, Ordering::Release);
        // The last is never lent, so there is one.
        let free = (shared.answers.iter()).position(|segment| Arc::strong_count(segment) == 1);
        let chosen = free.unwrap_or(ANSWERS - 1);
        header.answer_in.store(chosen as u32, Ordering::Release);
        let call = next_call(header);
        shared::announce(&header.call, call, &header.child_sleeps);
        Ok(call)
    }

    /// Waits for the answer to a call; `None` if it did not come in time.
    pub(super) fn finish(
        &mut self,
        call: u32,
        at_most: Option<Duration>,
    ) -> Option<Result<Vec<NnTensor>, NnError>> {
        let shared = self.shared.clone();
        let header = shared.header();
        let began = Instant::now();
        loop {
            if shared.gone.load(Ordering::SeqCst) == self.attached {
                self.attached = 0;
                return Some(Err(shared.process.ended()));
            }
            let done = header.done.load(Ordering::Acquire);
            if done == call {
                return Some(self.take());
            }
            let left = match at_most {
                None => LOOK_AGAIN,
                Some(at_most) => at_most.checked_sub(began.elapsed())?.min(LOOK_AGAIN),
            };
            shared::await_change(&header.done, done, &header.server_sleeps, &self.looks, left);
        }
    }

    /// Takes the answer that is there.
    pub(super) fn take(&mut self) -> Result<Vec<NnTensor>, NnError> {
        let shared = self.shared.clone();
        let header = shared.header();
        let broken = || {
            shared
                .process
                .end("it answered with an invalid message".into());
            shared.process.ended()
        };
        let chosen = header.answer_in.load(Ordering::Acquire) as usize;
        let segment = shared.answers.get(chosen).ok_or_else(broken)?;
        let len =
            usize::try_from(header.answer_bytes.load(Ordering::Acquire)).unwrap_or(usize::MAX);
        let lends = chosen + 1 < ANSWERS && len <= answers::LEND_AT_MOST;
        let outputs = answers::read(segment, len, lends).ok_or_else(broken)??;
        if !lends {
            segment.release(len);
        }
        let called = usize::try_from(header.call_bytes.load(Ordering::Acquire)).unwrap_or(0);
        shared.calls.release(BODY + called);
        Ok(outputs)
    }
}

/// The number of the next call of an instance; never [`super::shared::GONE`].
pub(super) fn next_call(header: &Header) -> u32 {
    header.call.load(Ordering::SeqCst).wrapping_add(1).max(1)
}

impl Instance for IsolatedInstance {
    fn run(&mut self, inputs: &[NnTensor]) -> Result<Vec<NnTensor>, NnError> {
        let call = match self.begun.take() {
            Some(begun) => begun?,
            None => {
                self.waited = false;
                self.follow(None);
                self.post(inputs)?
            }
        };
        let finished = self.finish(call, None);
        finished.unwrap_or_else(|| Err(self.shared.process.ended()))
    }

    fn begin(&mut self, inputs: &[NnTensor], at_most: Duration) -> bool {
        self.waited = false;
        let up = self.shared.process.up.load(Ordering::SeqCst);
        if up == 0 || up != self.attached {
            return false;
        }
        // This thread waits, so its processor is free.
        self.follow(processor::current());
        let posted = self.post(inputs);
        let ready = match &posted {
            Ok(call) => self.is_done(*call, at_most),
            Err(_) => true,
        };
        if !ready {
            // This thread goes on, and a long run may go elsewhere.
            self.follow(None);
        }
        self.begun = Some(posted);
        ready
    }

    fn waited(&self) -> bool {
        self.waited
    }

    fn interrupt(&self) -> Option<Arc<dyn Interrupt>> {
        Some(self.shared.clone())
    }
}

impl IsolatedInstance {
    /// Moves the child's thread, until the system refuses that.
    fn follow(&mut self, processor: Option<usize>) {
        if let Some(kept) = &mut self.kept
            && !kept.follow(processor)
        {
            self.kept = None;
        }
    }

    /// Waits for an answer without taking it.
    pub(super) fn is_done(&self, call: u32, at_most: Duration) -> bool {
        let header = self.shared.header();
        let began = Instant::now();
        loop {
            let done = header.done.load(Ordering::Acquire);
            if done == call || self.shared.gone.load(Ordering::SeqCst) == self.attached {
                return true;
            }
            let Some(left) = at_most.checked_sub(began.elapsed()) else {
                return false;
            };
            shared::await_change(&header.done, done, &header.server_sleeps, &self.looks, left);
        }
    }
}

impl Drop for IsolatedInstance {
    fn drop(&mut self) {
        if let Some(control) = self.shared.control() {
            let note = Note {
                kind: Kind::Drop,
                number: self.shared.number,
                run: 0,
            };
            let _ = control.send(note, &[]);
        }
    }
}
