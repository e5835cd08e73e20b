//! Many streams at once, every event of which is checked: nonce, number, order.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use llm_router::http1::{
    ChunkedDecoder, HeadLimits, HeadScan, Method, Parsed, PieceKind, ResponseBody, parse_response,
};
use llm_router::runtime::{self, Buf, Driver, Stream};
use memchr::memmem;

use super::machine::Meter;
use super::series::Percentiles;
use super::{Failure, client};

/// Streams to be opened, watched for a while, and closed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Streams {
    pub(crate) address: SocketAddr,
    pub(crate) count: usize,
    /// Events of every stream before the watch begins.
    pub(crate) event_count_before: u64,
    pub(crate) watch: Duration,
    pub(crate) driver: Driver,
}

/// What was seen during the watch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watched {
    pub(crate) event_count: u64,
    pub(crate) seconds: f64,
    pub(crate) cpu: Option<Duration>,
    /// Between two events of a stream, as far as a client can tell.
    pub(crate) gap: Percentiles,
    /// From the sent request to the first byte of the answer, of all streams.
    pub(crate) first_byte: Percentiles,
    /// Resident memory of the meter's process at the end, all streams running.
    pub(crate) resident: Option<u64>,
}

impl Streams {
    /// Carries it out on a thread of its own, which stays on the caller's core.
    ///
    /// # Errors
    /// When a stream does not open, ends by itself, or has a wrong event.
    pub(crate) fn watch(self, meter: Meter) -> Result<Watched, Failure> {
        let watching = thread::spawn(move || runtime::block_on(self.driver, self.drive(meter)));
        watching
            .join()
            .map_err(|_| "the stream client panicked")??
    }

    async fn drive(self, meter: Meter) -> Result<Watched, Failure> {
        let shared = Rc::new(Shared::default());
        for index in 0..self.count {
            shared.open_count.set(shared.open_count.get() + 1);
            let shared_by_task = Rc::clone(&shared);
            runtime::spawn(async move {
                let outcome = follow(&shared_by_task, self, index).await;
                if let Err(error) = outcome {
                    let message = format!("stream {index}: {error}");
                    shared_by_task.failure.borrow_mut().get_or_insert(message);
                }
                shared_by_task
                    .open_count
                    .set(shared_by_task.open_count.get() - 1);
            });
            if index % OPENED_AT_ONCE == OPENED_AT_ONCE - 1 {
                shared
                    .wait(|shared| shared.started_count.get() > index)
                    .await?;
            }
        }
        shared
            .wait(|shared| shared.ready_count.get() == self.count)
            .await?;
        let (cpu, began) = (meter.cpu()?, Instant::now());
        let event_count = shared.event_count.get();
        shared.is_watching.set(true);
        runtime::sleep(self.watch).await;
        shared.is_watching.set(false);
        let seconds = began.elapsed().as_secs_f64();
        let event_count = shared.event_count.get() - event_count;
        let cpu = meter.cpu()?.zip(cpu).map(|(after, before)| after - before);
        let resident = meter.resident()?;
        shared.is_ending.set(true);
        shared.wait(|shared| shared.open_count.get() == 0).await?;
        Ok(Watched {
            event_count,
            seconds,
            cpu,
            gap: Percentiles::of_us(&mut shared.gaps_us.borrow_mut()),
            first_byte: Percentiles::of_us(&mut shared.first_bytes_us.borrow_mut()),
            resident,
        })
    }
}

#[derive(Default)]
struct Shared {
    open_count: Cell<usize>,
    /// Streams with their first event.
    started_count: Cell<usize>,
    /// Streams with as many events as the watch waits for.
    ready_count: Cell<usize>,
    event_count: Cell<u64>,
    is_watching: Cell<bool>,
    is_ending: Cell<bool>,
    gaps_us: RefCell<Vec<u32>>,
    first_bytes_us: RefCell<Vec<u32>>,
    failure: RefCell<Option<String>>,
}

impl Shared {
    async fn wait(&self, condition: impl Fn(&Self) -> bool) -> Result<(), Failure> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(failure) = self.failure.borrow_mut().take() {
                return Err(failure.into());
            }
            if condition(self) {
                return Ok(());
            }
            if Instant::now() > until {
                let (open, ready) = (self.open_count.get(), self.ready_count.get());
                return Err(format!("streams stand still: {open} open, {ready} ready").into());
            }
            runtime::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Opens one stream and checks its events until the end of the watch.
async fn follow(shared: &Shared, streams: Streams, index: usize) -> Result<(), Failure> {
    let mut stream = Stream::connect(streams.address).await?;
    let mut events = Events::new(&format!("s{index}"));
    let request = client::request(client::PATH, &client::stream_body(&events.nonce));
    let (sent, _) = stream.writer.write_all(Buf::of(request.as_bytes())).await;
    sent?;
    let sent_at = Instant::now();
    let mut buf = read(&mut stream, Buf::large()).await?;
    shared.first_bytes_us.borrow_mut().push(micros(sent_at));
    skip_head(&mut stream, &mut buf).await?;
    let mut last = Instant::now();
    while !shared.is_ending.get() {
        let count = events.take(buf.filled())?;
        let before = events.next_number - count;
        shared.event_count.set(shared.event_count.get() + count);
        if count > 0 {
            if shared.is_watching.get() {
                let mut gaps = shared.gaps_us.borrow_mut();
                gaps.push(micros(last));
                // Those that came together with the first have no gap.
                gaps.extend((1..count).map(|_| 0));
            }
            last = Instant::now();
        }
        let passed = |number: u64| before < number && events.next_number >= number;
        if passed(1) {
            shared.started_count.set(shared.started_count.get() + 1);
        }
        if passed(streams.event_count_before.max(1)) {
            shared.ready_count.set(shared.ready_count.get() + 1);
        }
        drop(buf);
        buf = read(&mut stream, Buf::large()).await?;
    }
    Ok(())
}

/// Takes the head off the buffer, after reading the rest of it where it has not come whole.
async fn skip_head(stream: &mut Stream, buf: &mut Buf) -> Result<(), Failure> {
    let mut scan = HeadScan::new();
    loop {
        let parsed = parse_response(buf.filled(), Method::Post, &mut scan, &HeadLimits::DEFAULT)
            .map_err(|error| format!("malformed answer: {error:?}"))?;
        let Parsed::Complete { head, bytes } = parsed else {
            let partial = std::mem::replace(buf, Buf::empty());
            *buf = read(stream, partial).await?;
            continue;
        };
        if head.status.as_u16() != 200 || head.body != ResponseBody::Chunked {
            let text = String::from_utf8_lossy(buf.filled());
            return Err(format!("not a stream: {text}").into());
        }
        buf.consume(bytes);
        return Ok(());
    }
}

async fn read(stream: &mut Stream, buf: Buf) -> Result<Buf, Failure> {
    match stream.reader.read(buf).await {
        (Ok(0), _) => Err("the stream ended".into()),
        (Ok(_), buf) => Ok(buf),
        (Err(error), _) => Err(error.into()),
    }
}

/// Checks the events of one stream as they arrive.
struct Events {
    nonce: String,
    next_number: u64,
    decoder: ChunkedDecoder,
    /// The beginning of an event whose end has not arrived.
    pending: Vec<u8>,
    /// How the next event must end.
    ending: Vec<u8>,
}

impl Events {
    fn new(nonce: &str) -> Self {
        Self {
            nonce: nonce.to_owned(),
            next_number: 0,
            decoder: ChunkedDecoder::new(),
            pending: Vec::new(),
            ending: Vec::new(),
        }
    }

    /// Takes the next bytes of the chunked body; how many events ended in them.
    fn take(&mut self, mut bytes: &[u8]) -> Result<u64, Failure> {
        let before = self.next_number;
        while !bytes.is_empty() {
            let piece = self
                .decoder
                .decode(bytes)
                .map_err(|error| format!("malformed chunks: {error:?}"))?;
            let (taken, rest) = bytes.split_at(piece.len);
            match piece.kind {
                PieceKind::Data if self.pending.is_empty() => self.take_text(taken)?,
                PieceKind::Data => {
                    let mut pending = std::mem::take(&mut self.pending);
                    pending.extend_from_slice(taken);
                    self.take_text(&pending)?;
                }
                PieceKind::End => return Err("the stream ended".into()),
                _ => {}
            }
            bytes = rest;
        }
        Ok(self.next_number - before)
    }

    fn take_text(&mut self, mut text: &[u8]) -> Result<(), Failure> {
        while let Some(at) = memmem::find(text, b"\n\n") {
            let (event, rest) = text.split_at(at);
            self.check(event)?;
            self.next_number += 1;
            text = rest.get(2..).unwrap_or_default();
        }
        self.pending.extend_from_slice(text);
        Ok(())
    }

    fn check(&mut self, event: &[u8]) -> Result<(), Failure> {
        let mut digits = itoa::Buffer::new();
        self.ending.clear();
        for piece in [
            b"\"nonce\":\"",
            self.nonce.as_bytes(),
            b"\",\"event\":",
            digits.format(self.next_number).as_bytes(),
            b"}}",
        ] {
            self.ending.extend_from_slice(piece);
        }
        if event.starts_with(b"data: {") && event.ends_with(&self.ending) {
            return Ok(());
        }
        let number = self.next_number;
        let text = String::from_utf8_lossy(event);
        Err(format!("event {number} of {} is {text}", self.nonce).into())
    }
}

fn micros(since: Instant) -> u32 {
    u32::try_from(since.elapsed().as_micros()).unwrap_or(u32::MAX)
}

/// So that no listener's backlog overflows.
const OPENED_AT_ONCE: usize = 50;
const PATIENCE: Duration = Duration::from_secs(20);
