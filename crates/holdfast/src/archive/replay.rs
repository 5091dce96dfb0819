//! Bringing a restored copy forward: a server on it replays the kept log, which this end sends as a primary would.
//!
//! Guarantees: done only if every transaction that was sent is applied; an error of the server is told in its own words.
//! Nobody but that server can log in, and only from this host.

use super::history::{Reached, Refused};
use super::walk::{Piece, Walk, Walked};
use crate::backup::{Error, blocking};
use holdfast_backup::Progress;
use holdfast_core::Position;
use holdfast_core::position::MariaDbPosition;
use holdfast_engine::mysql::replay::Replayed;
use holdfast_engine::mysql::scratch::Scratch;
use holdfast_wire::native_password::{self, NONCE_BYTES};
use holdfast_wire::packet::{HEADER_BYTES, Header};
use holdfast_wire::primary::{Identity, Primary, Sender, Step};
use holdfast_wire::prover::Method;
use ring::rand::{SecureRandom as _, SystemRandom};
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

const USER: &str = "holdfast-replay";
/// Pieces between the repository and the server.
const WAITING_MAX: usize = 256;
const WRITE_BYTES: usize = 256 << 10;
/// A replica's questions are short.
const QUESTION_BYTES_MAX: usize = 64 << 10;
const LOOK: Duration = Duration::from_millis(50);
/// A server whose connection broke says why within so many looks.
const LOOKS_MAX: usize = 100;
/// Whoever connects and is not that server is silent.
const QUESTIONS: Duration = Duration::from_secs(10);

/// Applies a walk to the copy in `data`. `work` is an empty directory with a short path.
pub async fn replay(
    data: &Path,
    work: &Path,
    walk: Walk,
    version: String,
    progress: Arc<Progress>,
) -> Result<Walked, Error> {
    let start = walk.start.brief();
    let (pieces, mut waiting) = mpsc::channel(WAITING_MAX);
    let sending = move |piece| pieces.blocking_send(piece).map_err(|_| Error::Interrupted);
    let walking = tokio::spawn(blocking(move || walk.run(&progress, sending)));
    // Without a first piece there is nothing to replay, or something is wrong.
    let Some(first) = waiting.recv().await else { return walked(walking).await };
    let scratch = Scratch::start_replaying(data, work).await?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(network)?;
    let sender = listener.local_addr().map_err(network)?;
    let identity = identity(version);
    scratch.replay(&start, sender, USER, &identity.password).await?;
    let serving = tokio::spawn(serve(listener, identity, first, waiting));
    let done = finish(&scratch, walking, &serving).await;
    serving.abort();
    let done = done?;
    scratch.replay_ended(data).await?;
    Ok(done)
}

type Walking = JoinHandle<Result<Walked, Error>>;

async fn walked(walking: Walking) -> Result<Walked, Error> {
    walking.await.unwrap_or(Err(Error::Interrupted))
}

/// Waits until everything that was sent is applied.
async fn finish(
    scratch: &Scratch,
    walking: Walking,
    serving: &JoinHandle<io::Result<()>>,
) -> Result<Walked, Error> {
    loop {
        let is = scratch.replayed().await?;
        // The sender fails if the server does, and its own words say more.
        if let Some(words) = &is.error {
            return Err(stopped(&is, words));
        }
        if walking.is_finished() {
            break;
        }
        sleep(LOOK).await;
    }
    let done = walked(walking).await;
    let mut looks = 0;
    loop {
        let is = scratch.replayed().await?;
        match (&done, &is.error) {
            // Its connection broke, and it has not said why yet.
            (Err(Error::Interrupted), Some(words)) => return Err(stopped(&is, words)),
            (Err(Error::Interrupted), None) if looks >= LOOKS_MAX => return done,
            (Err(Error::Interrupted), None) => looks += 1,
            (Err(_), _) => return done,
            (Ok(walked), _) if has(&is, &walked.reached)? => return done,
            (Ok(_), Some(words)) => return Err(stopped(&is, words)),
            // What it has not received by now will not come.
            (Ok(_), None) if serving.is_finished() => {
                return Err(stopped(&is, "the connection to the server that replays it broke"));
            }
            (Ok(_), None) => {}
        }
        sleep(LOOK).await;
    }
}

fn stopped(is: &Replayed, words: &str) -> Error {
    Error::Refused(format!(
        "the log could not be replayed beyond {}: {words}; nothing was restored. Without the log, `--backup` restores \
         the backup alone",
        is.position
    ))
}

fn has(is: &Replayed, wanted: &Reached) -> Result<bool, Error> {
    let position: MariaDbPosition = is.position.parse().map_err(|_| Refused::NoPosition)?;
    Ok(Reached::at(&Position::MariaDb(position)).is_some_and(|is| is.covers(&wanted.position())))
}

fn network(e: io::Error) -> Error {
    Error::Io { doing: "listening on", path: "127.0.0.1".into(), source: e }
}

fn identity(version: String) -> Identity {
    let mut secret = [0; 16];
    SystemRandom::new().fill(&mut secret).expect("the kernel always has randomness after boot");
    Identity {
        // As servers of this kind say it, for clients that would take them for older ones.
        version: format!("5.5.5-{version}"),
        server_id: 1,
        uuid: String::new(),
        method: Method::NativePassword,
        user: USER.to_owned(),
        password: secret.iter().map(|b| format!("{b:02x}")).collect(),
        checksum: true,
    }
}

fn nonce() -> [u8; NONCE_BYTES] {
    let mut bytes = [0; NONCE_BYTES];
    SystemRandom::new().fill(&mut bytes).expect("the kernel always has randomness after boot");
    native_password::nonce(bytes)
}

/// Answers the server's connections until it asks for the log, and sends that once.
async fn serve(
    listener: TcpListener,
    identity: Identity,
    first: Piece,
    mut rest: mpsc::Receiver<Piece>,
) -> io::Result<()> {
    let mut first = Some(first);
    loop {
        let (mut stream, _) = listener.accept().await?;
        let asked = timeout(QUESTIONS, questions(&mut stream, &identity)).await;
        let Ok(Ok(Some(seq))) = asked else { continue };
        let mut sender = Sender::new(&identity, seq);
        let Some(first) = first.take() else {
            let mut out = Vec::new();
            sender.fail(&mut out, "the log was sent once already");
            let _ = stream.write_all(&out).await;
            continue;
        };
        send(&mut stream, &mut sender, first, &mut rest).await?;
        // The server keeps its connection until it is told to end.
        let _ = stream.read_u8().await;
    }
}

/// Until the server asks for the log: the number of the first packet then. `None`: it hung up.
async fn questions(stream: &mut TcpStream, identity: &Identity) -> io::Result<Option<u8>> {
    let (mut primary, hello) = Primary::new(identity.clone(), nonce());
    stream.write_all(&hello).await?;
    loop {
        let mut head = [0; HEADER_BYTES];
        stream.read_exact(&mut head).await?;
        let header = Header::read(&head).filter(|h| h.len <= QUESTION_BYTES_MAX);
        let header = header.ok_or_else(|| io::Error::other("a question is too long"))?;
        let mut payload = vec![0; header.len];
        stream.read_exact(&mut payload).await?;
        match primary.step(header.seq, &payload, crate::clock::unix_ms() / 1_000) {
            Step::Answer(answer) => stream.write_all(&answer).await?,
            Step::Dump { seq } => return Ok(Some(seq)),
            Step::End(last) => {
                stream.write_all(&last).await?;
                return Ok(None);
            }
        }
    }
}

async fn send(
    stream: &mut TcpStream,
    sender: &mut Sender,
    first: Piece,
    rest: &mut mpsc::Receiver<Piece>,
) -> io::Result<()> {
    let (mut piece, mut out, mut logs) = (first, Vec::new(), 0);
    loop {
        match piece {
            Piece::Description(description) => {
                logs += 1;
                let file = format!("kept.{logs:06}");
                sender.describe(&mut out, &file, &description).map_err(io::Error::other)?;
            }
            Piece::Event(event) => sender.event(&mut out, &event),
        }
        let next = match rest.try_recv() {
            Ok(next) if out.len() < WRITE_BYTES => Some(next),
            next => {
                stream.write_all(&out).await?;
                out.clear();
                match next {
                    Ok(next) => Some(next),
                    Err(_) => rest.recv().await,
                }
            }
        };
        match next {
            Some(next) => piece = next,
            None => return Ok(()),
        }
    }
}
