//! Who talks to the GPU: one thread, which answers together what comes together.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};

use prometheus::{IntCounter, IntGauge};
use reelgrad::Result;
use reelgrad::retrieval::search::{Answers, Query, SearchOptions, Searcher};
use tokio::sync::oneshot;

use super::metrics::Metrics;
use super::refusal::{Code, Refusal};

/// Queries that are answered together, at most, but for a request that has more.
const TOGETHER: usize = 64;

/// Where requests wait.
pub struct Worker {
    jobs: SyncSender<Job>,
    waiting: IntGauge,
    thread: JoinHandle<()>,
}

type Work = Box<dyn FnOnce(&Searcher) + Send>;

enum Job {
    Search(Search),
    Other(Work),
}

struct Search {
    queries: Vec<Query>,
    options: SearchOptions,
    reply: oneshot::Sender<Result<Answers>>,
}

impl Worker {
    /// Starts the thread; `queue` jobs may wait.
    pub fn start(searcher: Arc<Searcher>, queue: usize, metrics: &Metrics) -> Self {
        let (jobs, waits) = sync_channel(queue);
        let waiting = metrics.queue_length.clone();
        let round = Round { searcher, jobs: waits, waiting: waiting.clone(), counts: metrics.rounds() };
        let thread = thread::spawn(move || round.all());
        Self { jobs, waiting, thread }
    }

    /// Whether it can still answer: it cannot if something it did went wrong beyond all errors.
    pub fn is_alive(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Searches, together with others that ask alike.
    pub async fn search(&self, queries: Vec<Query>, options: SearchOptions) -> Result<Answers, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.submit(Job::Search(Search { queries, options, reply }))?;
        Ok(answer.await.map_err(|_| gone())??)
    }

    /// Does `work` with the searcher.
    pub async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Searcher) -> Result<T> + Send + 'static,
    ) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        // Who left needs no answer.
        let job = move |searcher: &Searcher| drop((!reply.is_closed()).then(|| reply.send(work(searcher))));
        self.submit(Job::Other(Box::new(job)))?;
        Ok(answer.await.map_err(|_| gone())??)
    }

    fn submit(&self, job: Job) -> Result<(), Refusal> {
        self.waiting.inc();
        self.jobs.try_send(job).map_err(|error| {
            self.waiting.dec();
            match error {
                TrySendError::Full(_) => Refusal::new(Code::Busy, "too many requests are waiting; come again"),
                TrySendError::Disconnected(_) => gone(),
            }
        })
    }
}

fn gone() -> Refusal {
    Refusal::new(Code::Unavailable, "the server cannot search any more; restart it")
}

struct Round {
    searcher: Arc<Searcher>,
    jobs: Receiver<Job>,
    waiting: IntGauge,
    /// Queries, and batches of them.
    counts: [IntCounter; 2],
}

impl Round {
    /// Takes what waits, until nobody can ask any more.
    fn all(self) {
        while let Ok(first) = self.jobs.recv() {
            let (mut searches, other) = self.take(first);
            searches.retain(|search| !search.reply.is_closed());
            while !searches.is_empty() {
                let options = searches[0].options;
                let (alike, others) = searches.into_iter().partition(|search: &Search| search.options == options);
                self.answer(alike, &options);
                searches = others;
            }
            if let Some(work) = other {
                work(&self.searcher);
            }
        }
    }

    /// The searches that wait, the first one among them, and the work after which those that come later wait in turn.
    fn take(&self, first: Job) -> (Vec<Search>, Option<Work>) {
        let (mut searches, mut count, mut next) = (Vec::new(), 0, Some(first));
        while let Some(job) = next {
            self.waiting.dec();
            match job {
                Job::Search(search) => {
                    count += search.queries.len();
                    searches.push(search);
                }
                Job::Other(work) => return (searches, Some(work)),
            }
            next = if count < TOGETHER { self.jobs.try_recv().ok() } else { None };
        }
        (searches, None)
    }

    /// Answers searches with the same options together; one that fails does not spoil the others.
    fn answer(&self, searches: Vec<Search>, options: &SearchOptions) {
        let queries: Vec<Query> = searches.iter().flat_map(|search| search.queries.iter().cloned()).collect();
        let [all, batches] = &self.counts;
        all.inc_by(queries.len() as u64);
        batches.inc();
        match self.searcher.search(&queries, options) {
            Ok(answers) => {
                let (mut found, mut first) = (answers.found.into_iter(), 0);
                for search in searches {
                    let own = first..first + search.queries.len();
                    first = own.end;
                    let cut = answers.cut.iter().filter(|at| own.contains(at)).map(|at| at - own.start).collect();
                    let found = found.by_ref().take(own.len()).collect();
                    // Who left needs no answer.
                    let _ = search.reply.send(Ok(Answers { found, cut, times: answers.times }));
                }
            }
            Err(error) if searches.len() == 1 => {
                searches.into_iter().zip([error]).for_each(|(search, error)| drop(search.reply.send(Err(error))));
            }
            Err(_) => searches.into_iter().for_each(|search| {
                let answer = self.searcher.search(&search.queries, options);
                drop(search.reply.send(answer));
            }),
        }
    }
}
