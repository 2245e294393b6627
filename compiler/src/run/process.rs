//! One device's process: its control stream, what it says, how it ends.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::interrupt;
use partita_rt::frame::{Header, Kind};
use partita_rt::{Error, FramedStream, Identity, StdStream};

/// Most bytes of standard error that are kept.
const MAX_SAID_BYTES: usize = 4096;

/// Largest frame that a device may send: a lying length must not exhaust memory.
const MAX_FRAME_BYTES: u32 = 1 << 30;

/// How long an emulator may take to open its sockets.
const START_TIME: Duration = Duration::from_secs(20);

/// What a device's control stream brings.
pub enum Event {
    /// A frame.
    Frame(Header, Vec<u8>),
    /// The stream ended, and why.
    End(String),
}

/// A running device.
pub struct Process {
    child: Arc<Mutex<Child>>,
    /// Towards the device; none until firmware's console is connected.
    writer: Option<FramedStream<StdStream<OneWay>>>,
    said: Arc<Mutex<String>>,
}

/// One direction of a stream; the other fails.
pub enum OneWay {
    /// From the device.
    From(Box<dyn Read + Send>),
    /// To the device.
    To(Box<dyn Write + Send>),
}

impl Read for OneWay {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            OneWay::From(reader) => reader.read(buffer),
            OneWay::To(_) => Err(std::io::ErrorKind::Unsupported.into()),
        }
    }
}

impl Write for OneWay {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        match self {
            OneWay::From(_) => Err(std::io::ErrorKind::Unsupported.into()),
            OneWay::To(writer) => writer.write(buffer),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            OneWay::From(_) => Ok(()),
            OneWay::To(writer) => writer.flush(),
        }
    }
}

impl Process {
    /// Starts a command. Its control stream is `control`, a socket, or else its standard input and output; noise may precede
    /// frames on the console of firmware.
    pub fn start(
        position: usize,
        command: &[String],
        (control, noisy): (Option<PathBuf>, bool),
        identity: Identity,
        events: Sender<(usize, Event)>,
    ) -> std::io::Result<Process> {
        let (program, arguments) = command.split_first().ok_or(std::io::ErrorKind::InvalidInput)?;
        let mut builder = Command::new(program);
        builder.args(arguments).stderr(Stdio::piped());
        if control.is_some() {
            builder.stdin(Stdio::null()).stdout(Stdio::null());
        } else {
            builder.stdin(Stdio::piped()).stdout(Stdio::piped());
        }
        let child = interrupt::spawn(&mut builder)?;
        let said = Arc::new(Mutex::new(String::new()));
        let (stdin, stdout, stderr) = {
            let mut child = interrupt::locked(&child);
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        };
        if let Some(stream) = stderr {
            collect(stream, Arc::clone(&said));
        }
        // From here on a failure must end the child too: dropping the process does.
        let mut process = Process { child, writer: None, said };
        let (reader, writer): (Box<dyn Read + Send>, Box<dyn Write + Send>) = match (&control, stdin, stdout) {
            (Some(path), _, _) => {
                let stream = process.connect(path)?;
                (Box::new(stream.try_clone()?), Box::new(stream))
            }
            (None, Some(stdin), Some(stdout)) => (Box::new(stdout), Box::new(stdin)),
            (None, _, _) => return Err(std::io::ErrorKind::BrokenPipe.into()),
        };
        process.writer = Some(FramedStream::new(StdStream(OneWay::To(writer)), identity));
        let from = StdStream(OneWay::From(reader));
        std::thread::spawn(move || {
            let stream =
                if noisy { FramedStream::over_serial(from, identity) } else { FramedStream::new(from, identity) };
            listen(position, stream, &events);
        });
        Ok(process)
    }

    /// Connects to a socket that the child opens.
    fn connect(&self, path: &Path) -> std::io::Result<UnixStream> {
        let give_up = Instant::now() + START_TIME;
        loop {
            match UnixStream::connect(path) {
                Ok(stream) => return Ok(stream),
                Err(error) if Instant::now() >= give_up => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
            if let Some(status) = self.exit_status() {
                std::thread::sleep(Duration::from_millis(50));
                return Err(std::io::Error::other(format!("it ended with {status}: {}", self.said().trim())));
            }
        }
    }

    /// Sends a frame to the device.
    pub fn send(&mut self, kind: Kind, inference: u32, message: u16, payload: &[u8]) -> Result<(), Error> {
        match &mut self.writer {
            Some(writer) => writer.send(kind, inference, message, payload),
            None => Err(Error::NoLink),
        }
    }

    /// What the device wrote to standard error.
    pub fn said(&self) -> String {
        self.said.lock().map(|said| said.clone()).unwrap_or_default()
    }

    /// How the process ended, if it did.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.child.lock().ok()?.try_wait().ok()?
    }
}

impl Process {
    /// Number of the process.
    pub fn id(&self) -> Option<u32> {
        Some(self.child.lock().ok()?.id())
    }

    /// Ends the process, unless it has ended.
    pub fn kill(&mut self) {
        if let Ok(mut child) = self.child.lock() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn collect(mut stream: impl Read + Send + 'static, said: Arc<Mutex<String>>) {
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            if let Ok(mut said) = said.lock()
                && said.len() < MAX_SAID_BYTES
            {
                said.push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        }
    });
}

/// Passes frames on until the stream ends.
fn listen(position: usize, mut stream: FramedStream<StdStream<OneWay>>, events: &Sender<(usize, Event)>) {
    let reason = loop {
        let header = match stream.receive_header() {
            Ok(header) if header.length > MAX_FRAME_BYTES => break "its frame is too large".to_string(),
            Ok(header) => header,
            Err(error) => break error.to_string(),
        };
        let mut payload = vec![0; header.length as usize];
        if let Err(error) = stream.receive_payload(&header, &mut payload) {
            break error.to_string();
        }
        if events.send((position, Event::Frame(header, payload))).is_err() {
            return;
        }
    };
    // Nobody listens any more once the cluster has been dropped.
    let _ = events.send((position, Event::End(reason)));
}
