//! `certs`: makes the certificates of a site, one by one or all at once, and turns what Azure gives into a trust bundle.
//! `certs inspect` shows them; it is judged by [`crate::gateway::inspect`], as `check` judges.
//!
//! Owns: the arguments, and what a person reads. Invariants: nothing is half made; a key is never shown.
//! Must not know: how a certificate is made (`certs`), the environment.

mod import;
pub mod listing;
mod make;

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{CommandError, End, ask};
use crate::certs::{self, Curve};
use crate::clock::UnixMillis;

/// `certs`, and what is to be made.
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct CertsArgs {
    #[command(subcommand)]
    action: Option<CertsAction>,
    #[command(flatten)]
    site: SiteArgs,
}

impl CertsArgs {
    /// What is to be looked at, if that is what is asked.
    pub fn inspects(&self) -> Option<&InspectArgs> {
        match &self.action {
            Some(CertsAction::Inspect(args)) => Some(args),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, Subcommand)]
enum CertsAction {
    /// Make a root CA: what devices hold to know the gateway, or (`--as tenant-ca`) what signs devices.
    Root(RootArgs),
    /// Make the edge CA below a root: what the IoT Edge daemon takes as `edge_ca`, and what signs server certificates.
    EdgeCa(EdgeCaArgs),
    /// Make a server certificate for the gateway.
    Server(ServerArgs),
    /// Make device certificates: the common name is the device id, up to 128 characters.
    Device(DeviceArgs),
    /// Make a proof of possession: a certificate for the verification code that IoT Hub or DPS gave, signed by the CA.
    Prove(ProveArgs),
    /// Turn `.cer`, `.p7b` and PEM files into the trust bundle, and say what is in it.
    Import(ImportArgs),
    /// Show certificates, and say what is wrong: exit status 0 (also with warnings), 1 (something does not work) or 64.
    Inspect(InspectArgs),
}

/// The whole development site.
#[derive(Debug, Clone, Args)]
struct SiteArgs {
    /// The folder to write to.
    #[arg(long, default_value = "certs/dev")]
    out: PathBuf,
    /// How many devices.
    #[arg(long, default_value_t = 1)]
    devices: usize,
    /// Host name or address by which devices call the gateway; may be given more than once.
    #[arg(long = "gateway-name", default_value = "localhost")]
    gateway_names: Vec<String>,
    /// Further host name or address of the local hub (hub double); may be given more than once.
    #[arg(long = "hub-name")]
    hub_names: Vec<String>,
    /// How many days all of it is valid, the CAs too, which no leaf outlives.
    #[arg(long, value_name = "N", default_value = "30", value_parser = certs::days)]
    days: u64,
    /// Replace files that exist.
    #[arg(long)]
    force: bool,
}

/// Where the files are.
#[derive(Debug, Clone, Args)]
struct Place {
    /// The folder of the site's certificates.
    #[arg(long, value_name = "DIR", default_value = "certs/dev")]
    out: PathBuf,
    /// Replace files that exist, keys too.
    #[arg(long)]
    force: bool,
}

/// The elliptic curve of a key. RSA keys are not made: an RSA root comes close to the 3 KB of a Sphere application.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum CurveName {
    P256,
    P384,
}

impl From<CurveName> for Curve {
    fn from(name: CurveName) -> Self {
        match name {
            CurveName::P256 => Self::P256,
            CurveName::P384 => Self::P384,
        }
    }
}

#[derive(Debug, Clone, Args)]
struct RootArgs {
    #[command(flatten)]
    place: Place,
    /// Name of the files: NAME.pem and NAME.key.pem.
    #[arg(long = "as", value_name = "NAME", default_value = "edge-root")]
    stem: String,
    /// Its common name [default: the files' name].
    #[arg(long)]
    name: Option<String>,
    /// How many days it is valid.
    #[arg(long, value_name = "N", default_value = "3650", value_parser = certs::days)]
    days: u64,
    /// Its key: p256 suits an Azure Sphere application.
    #[arg(long, value_enum, default_value = "p256")]
    curve: CurveName,
}

#[derive(Debug, Clone, Args)]
struct EdgeCaArgs {
    #[command(flatten)]
    place: Place,
    /// What signs it: files CA.pem and CA.key.pem of the folder, or a path without these endings.
    #[arg(long, default_value = "edge-root")]
    ca: String,
    /// Name of the files: NAME.pem and NAME.key.pem.
    #[arg(long = "as", value_name = "NAME", default_value = "edge-ca")]
    stem: String,
    /// Its common name [default: the files' name].
    #[arg(long)]
    name: Option<String>,
    /// How many days it is valid.
    #[arg(long, value_name = "N", default_value = "730", value_parser = certs::days)]
    days: u64,
    /// Its key.
    #[arg(long, value_enum, default_value = "p256")]
    curve: CurveName,
}

#[derive(Debug, Clone, Args)]
struct ServerArgs {
    /// Host names and addresses by which devices call the gateway.
    #[arg(required_unless_present = "gateway_names", value_name = "GATEWAY-NAME")]
    names: Vec<String>,
    /// As GATEWAY-NAME, written as in `certs` and `certs inspect`; may be given more than once.
    #[arg(long = "gateway-name", value_name = "NAME")]
    gateway_names: Vec<String>,
    #[command(flatten)]
    place: Place,
    /// What signs it: files CA.pem and CA.key.pem of the folder, or a path without these endings.
    #[arg(long, default_value = "edge-ca")]
    ca: String,
    /// Name of the files: NAME.chain.pem and NAME.key.pem.
    #[arg(long = "as", value_name = "NAME", default_value = "server")]
    stem: String,
    /// How many days it is valid, at most as long as its CA.
    #[arg(long, value_name = "N", default_value = "90", value_parser = certs::days)]
    days: u64,
}

#[derive(Debug, Clone, Args)]
struct DeviceArgs {
    /// Device ids, as they are registered in the hub.
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
    #[command(flatten)]
    place: Place,
    /// What signs them: files CA.pem and CA.key.pem of the folder, or a path without these endings.
    #[arg(long, default_value = "tenant-ca")]
    ca: String,
    /// How many days they are valid, at most as long as their CA.
    #[arg(long, value_name = "N", default_value = "90", value_parser = certs::days)]
    days: u64,
}

#[derive(Debug, Clone, Args)]
struct ProveArgs {
    /// The verification code.
    code: String,
    #[command(flatten)]
    place: Place,
    /// Whose key is proved: files CA.pem and CA.key.pem of the folder, or a path without these endings.
    #[arg(long, default_value = "tenant-ca")]
    ca: String,
}

#[derive(Debug, Clone, Args)]
struct ImportArgs {
    /// Files: PEM, `.crt`, `.cer`, `.der`, `.p7b`.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The bundle: what it has already stays.
    #[arg(long, value_name = "BUNDLE", default_value = "trust-bundle.pem")]
    out: PathBuf,
    /// Put these alone into the bundle.
    #[arg(long)]
    replace: bool,
    /// Leave out CAs that signed another CA of the bundle: of a chain only the tenant's own CA stays.
    #[arg(long)]
    lowest: bool,
}

/// What `certs inspect` looks at.
#[derive(Debug, Clone, Default, Args)]
pub struct InspectArgs {
    /// Files with certificates, to look at as such [without any of these: what the environment configures].
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// A trust bundle: a file or a folder; may be given more than once.
    #[arg(long, value_name = "BUNDLE")]
    pub bundle: Vec<PathBuf>,
    /// The chain that devices are shown.
    #[arg(long, value_name = "CHAIN")]
    pub server: Option<PathBuf>,
    /// The server's key, to see whether it belongs to the chain.
    #[arg(long, value_name = "FILE", requires = "server")]
    pub key: Option<PathBuf>,
    /// The root that devices hold.
    #[arg(long, value_name = "FILE")]
    pub root: Option<PathBuf>,
    /// The running gateway's metrics listener, to see who is connected by which CA [default: this machine, where the environment
    /// has it, when what the environment configures is looked at].
    #[arg(long, value_name = "HOST:PORT", value_parser = ask::host_port)]
    pub admin: Option<String>,
    /// The name by which devices call the gateway [default: EdgeDeviceHostName].
    #[arg(long, value_name = "NAME")]
    pub gateway_name: Option<String>,
    /// One JSON object.
    #[arg(long)]
    pub json: bool,
}

impl InspectArgs {
    /// Whether nothing is named.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
            && self.bundle.is_empty()
            && self.server.is_none()
            && self.root.is_none()
    }
}

/// Runs `certs`, but for `certs inspect`.
///
/// # Errors
/// See [`CommandError`].
pub fn certs(args: &CertsArgs, now: UnixMillis, out: &mut dyn Write) -> Result<End, CommandError> {
    let end = match &args.action {
        None => make::site(&args.site, now, out),
        Some(CertsAction::Root(args)) => make::root(args, now, out),
        Some(CertsAction::EdgeCa(args)) => make::edge_ca(args, now, out),
        Some(CertsAction::Server(args)) => make::server(args, now, out),
        Some(CertsAction::Device(args)) => make::devices(args, now, out),
        Some(CertsAction::Prove(args)) => make::proof(args, now, out),
        Some(CertsAction::Import(args)) => import::run(args, now, out),
        Some(CertsAction::Inspect(_)) => {
            Err(CommandError::Usage("certs inspect is run by the gateway's examination".to_owned()))
        }
    }?;
    out.flush()?;
    Ok(end)
}
