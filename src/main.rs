//! The command line: `run`, `check`, `certs`, `queue`, `health`, `refusals`, `doctor`, `routes`, `manifest`: parse, call, print.

use std::io::{BufWriter, Write};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use sphere_gateway::clock;
use sphere_gateway::command::{
    self, CertsArgs, CheckAction, CommandError, DoctorAction, End, EnvLevel, EnvVerdict,
    HealthArgs, ManifestAction, QueueArgs, RefusalsArgs, RoutesAction, Settings, Surroundings,
};
use sphere_gateway::config::{self, Config, LogFormat, LogLevel, Place, ProcessEnv, Verdict};
use sphere_gateway::gateway::{self, Gateway, StartError};
use sphere_gateway::log::{JsonLine, LogLine};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::filter::LevelFilter;

/// `EX_USAGE` of sysexits.h: the configuration or the arguments are wrong.
const EXIT_USAGE: u8 = 64;

/// Transparent IoT Edge gateway: a message is on disk before its PUBACK.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve devices. Configured by the environment; see `check`.
    Run,
    /// Examine everything that a gateway needs here, and say what to do: exit status 0 (also with warnings), 1 (something
    /// does not work) or 64 (it would not start with what is configured).
    #[command(args_conflicts_with_subcommands = true)]
    Check {
        #[command(subcommand)]
        what: Option<CheckAction>,
        /// Print the table of the variables alone, those of edgeHub that are not set included, and look at nothing else.
        #[arg(long)]
        env: bool,
        /// One JSON object.
        #[arg(long, conflicts_with = "env")]
        json: bool,
    },
    /// Make certificates, all of a development site or one by one; import a trust bundle; inspect what is there.
    Certs(CertsArgs),
    /// Look at the queues: what waits, how long the budget lasts, export, check, dead letters.
    Queue(QueueArgs),
    /// Ask the running gateway whether it does its job: exit status 0 or 1, for a container's health check.
    Health(HealthArgs),
    /// Ask the running gateway whom it refused lately, why, and what to do.
    Refusals(RefusalsArgs),
    /// Examine the volume that the store is on.
    #[command(subcommand)]
    Doctor(DoctorAction),
    /// Look at routes: what a document's routes say, where a message goes, what a condition comes to.
    #[command(subcommand)]
    Routes(RoutesAction),
    /// Make a deployment manifest for IoT Edge; `check manifest` looks at one.
    #[command(subcommand)]
    Manifest(ManifestAction),
}

/// What the gateway knows about variables, for a manifest that gives it some.
const SETTINGS: Settings = Settings { judge: judge_variables, is_secret: config::is_secret };

fn main() -> ExitCode {
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(told) => return arguments_told(&told),
    };
    let outcome = match options.command {
        Command::Run => run(),
        Command::Check { what: Some(action), .. } => {
            look(|_, out| command::check_manifest(&action, &SETTINGS, out))
        }
        Command::Check { env: true, .. } => Ok(environment()),
        Command::Check { env: false, json, .. } => check(json),
        Command::Certs(args) => certs(&args),
        Command::Queue(args) => look(|here, out| command::queue(args, here, out)),
        Command::Health(args) => look(|here, out| command::health(&args, here, out)),
        Command::Refusals(args) => look(|here, out| command::refusals(&args, here, out)),
        Command::Doctor(action) => look(|here, out| command::doctor(&action, here, out)),
        Command::Routes(action) => look(|_, out| command::routes(&action, out)),
        Command::Manifest(action) => {
            let variable = |name: &str| std::env::var(name).ok();
            look(|_, out| command::manifest(&action, &SETTINGS, &variable, out))
        }
    };
    outcome.unwrap_or_else(|e| {
        eprintln!("sphere-gateway: {e:#}");
        ExitCode::FAILURE
    })
}

/// Help and version are answers; anything else is a wrong argument.
fn arguments_told(told: &clap::Error) -> ExitCode {
    let is_wrong = told.use_stderr();
    // Nobody may be reading: then there is nobody to tell.
    let _ = told.print();
    if is_wrong { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS }
}

/// Runs a command that looks at what a gateway with this environment has.
fn look(
    command: impl FnOnce(&Surroundings, &mut dyn Write) -> Result<End, CommandError>,
) -> anyhow::Result<ExitCode> {
    let place = Place::read(&ProcessEnv);
    let here =
        Surroundings { storage: place.storage, queues_in: Place::queues_in, admin: place.admin };
    let mut out = BufWriter::new(std::io::stdout().lock());
    match command(&here, &mut out) {
        Ok(End::Fine) | Err(CommandError::Closed) => Ok(ExitCode::SUCCESS),
        Ok(End::Found) => Ok(ExitCode::FAILURE),
        Err(CommandError::Usage(text)) => {
            eprintln!("sphere-gateway: {text}");
            Ok(ExitCode::from(EXIT_USAGE))
        }
        Err(error) => {
            // Its words hold those of its cause.
            eprintln!("sphere-gateway: {error}");
            Ok(ExitCode::FAILURE)
        }
    }
}

fn certs(args: &CertsArgs) -> anyhow::Result<ExitCode> {
    let now = clock::system().wall();
    look(|here, out| match args.inspects() {
        Some(args) => {
            let configured = config::Certificates::read(&ProcessEnv);
            gateway::inspect(args, &configured, here.admin, now, out)
        }
        None => command::certs(args, now, out),
    })
}

fn judge_variables(vars: &[(String, String)]) -> Vec<EnvVerdict> {
    let words = |verdict| match verdict {
        Verdict::Honoured => (EnvLevel::Fine, "honoured".to_owned(), String::new()),
        Verdict::Ignored(why) => (EnvLevel::Fine, format!("ignored: {why}"), String::new()),
        Verdict::ByDaemon => {
            (EnvLevel::Warning, "the IoT Edge daemon sets it".to_owned(), "take it out".to_owned())
        }
        Verdict::Unknown(hint) => (
            EnvLevel::Warning,
            format!("unknown, without effect{hint}"),
            "correct it, or take it out".to_owned(),
        ),
        Verdict::Doubtful(what) => (EnvLevel::Warning, what, "correct it".to_owned()),
        Verdict::Wrong { what, todo } => (EnvLevel::Error, what, todo),
    };
    let told = |config::Judged { name, verdict }| {
        let (level, what, todo) = words(verdict);
        EnvVerdict { name, level, what, todo }
    };
    config::judge(vars).into_iter().map(told).collect()
}

/// What is set, told in the log, as is all that is wrong with it.
fn configuration() -> Result<Config, ExitCode> {
    let read = Config::read(&ProcessEnv);
    let (table, warnings) = match &read {
        Ok(config) => (config.table(), &config.warnings),
        Err(e) => (e.table(), &e.warnings),
    };
    for line in table.lines() {
        tracing::info!("{line}");
    }
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    read.map_err(|e| {
        tracing::error!("not started: {}", e.count());
        for problem in &e.problems {
            tracing::error!("{problem}");
        }
        ExitCode::from(EXIT_USAGE)
    })
}

fn environment() -> ExitCode {
    match Config::read(&ProcessEnv) {
        Ok(config) => {
            print!("{}", config.whole_table());
            ExitCode::SUCCESS
        }
        Err(e) => {
            print!("{}", e.whole_table());
            eprintln!("{e}");
            ExitCode::from(EXIT_USAGE)
        }
    }
}

fn check(json: bool) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Runtime::new().context("starting the runtime")?;
    let root = std::path::Path::new("/");
    let report = runtime.block_on(gateway::examine(&ProcessEnv, clock::system(), root));
    // A disk or a name server that hangs must not hold up the end.
    runtime.shutdown_background();
    let status = ExitCode::from(report.exit_status());
    match report.print(json, &mut BufWriter::new(std::io::stdout().lock())) {
        Ok(()) | Err(CommandError::Closed) => Ok(status),
        Err(error) => Err(error.into()),
    }
}

/// The signals that mean something to a gateway.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    /// Hears each from now on; what comes before somebody asks is not lost.
    fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            hang_up: signal(SignalKind::hangup()).context("listening for SIGHUP")?,
            terminate: signal(SignalKind::terminate()).context("listening for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("listening for SIGINT")?,
        })
    }
}

fn run() -> anyhow::Result<ExitCode> {
    // Before all else: a signal without a listener ends the process, and SIGHUP only asks for a document to be read.
    let runtime = tokio::runtime::Runtime::new().context("starting the runtime")?;
    let signals = {
        let _inside = runtime.enter();
        Signals::listen()?
    };
    // A configuration that is refused is told in the log, too: a container's supervisor reads nothing else.
    let (log, format) = Config::log_of(&ProcessEnv);
    log_to_stdout(log, format);
    let config = match configuration() {
        Ok(config) => config,
        Err(code) => return Ok(code),
    };
    let code = runtime.block_on(serve(config, signals))?;
    // Nothing of ours is left; a thread that is stuck in a system call must not hold up the end.
    runtime.shutdown_background();
    Ok(code)
}

async fn serve(config: Config, signals: Signals) -> anyhow::Result<ExitCode> {
    let Signals { mut terminate, mut interrupt, mut hang_up } = signals;
    let started = tokio::select! {
        started = Gateway::start(config, clock::system()) => started,
        // The start may be waiting for the IoT Edge daemon.
        _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
        _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
    };
    let gateway = match started {
        Ok(gateway) => gateway,
        Err(e) => return Ok(start_failed(&e)),
    };
    let failed = loop {
        tokio::select! {
            _ = terminate.recv() => break None,
            _ = interrupt.recv() => break None,
            Some(()) = hang_up.recv() => gateway.reload(),
            why = gateway.failed() => break Some(why),
        }
    };
    if let Some(why) = &failed {
        tracing::error!("cannot go on, ending so that the runtime restarts this process: {why}");
    }
    gateway.shutdown().await;
    Ok(if failed.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn start_failed(e: &StartError) -> ExitCode {
    tracing::error!("{e}");
    exit_code(e)
}

fn exit_code(e: &StartError) -> ExitCode {
    if e.is_usage() { ExitCode::from(EXIT_USAGE) } else { ExitCode::FAILURE }
}

fn log_to_stdout(log: LogLevel, format: LogFormat) {
    let detailed = log >= LogLevel::Debug;
    let events = tracing_subscriber::fmt().with_max_level(level(log)).with_ansi(false);
    match format {
        LogFormat::Text => events.event_format(LogLine { detailed }).init(),
        LogFormat::Json => events.event_format(JsonLine).init(),
    }
}

fn level(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Fatal | LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warning => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Verbose => LevelFilter::TRACE,
    }
}
