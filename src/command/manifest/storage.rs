//! Whether what the gateway keeps outlives its container: binds, mounts and volumes under StorageFolder.
//!
//! Owns: which mount a folder lies on, and what its owner must be. Must not know: the store.

use serde_json::Value;

use super::container::Variables;
use super::deployment::Object;
use super::finding::Findings;

const SUBJECT: &str = "edgeHub storage";

/// StorageFolder of the image.
const FOLDER: &str = "/iotedge/storage";

/// Folders of a host that are empty after each start of it.
const FLEETING: [&str; 4] = ["/tmp", "/run", "/var/run", "/dev/shm"];

/// Folders of a host that are others' with all that is in them: the system's, and root's own. Given to the container's
/// user, some of them keep a machine from starting, and package updates take the rest back.
const OF_OTHERS: [&str; 17] = [
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/lib",
    "/lib32",
    "/lib64",
    "/proc",
    "/root",
    "/sbin",
    "/snap",
    "/sys",
    "/usr",
    "/var/lib/aziot",
    "/var/lib/containerd",
    "/var/lib/docker",
    "/var/lib/iotedge",
];

/// Folders of a host that many share: one in them is fine, they themselves are not. All at the root are, too.
const SHARED: [&str; 9] = [
    "/var/backups",
    "/var/cache",
    "/var/lib",
    "/var/local",
    "/var/log",
    "/var/mail",
    "/var/opt",
    "/var/spool",
    "/var/tmp",
];

#[derive(Debug, Clone, PartialEq, Eq)]
enum From {
    /// A folder of the host.
    Host(String),
    /// A volume of Docker's, by name.
    Volume(String),
    /// A volume that goes with the container.
    Nameless,
    Tmpfs,
}

/// What is mounted at a folder of the container.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    from: From,
    target: String,
    is_read_only: bool,
}

impl Mount {
    /// `SOURCE:TARGET[:OPTIONS]`.
    fn of_bind(bind: &str) -> Option<Self> {
        let mut parts = bind.split(':');
        let (source, target) = (parts.next()?, parts.next()?);
        let options = parts.next().unwrap_or_default();
        if source.is_empty() || !target.starts_with('/') || parts.next().is_some() {
            return None;
        }
        let from = if source.starts_with('/') || source.starts_with("${") {
            From::Host(source.to_owned())
        } else if source.contains('/') {
            return None;
        } else {
            From::Volume(source.to_owned())
        };
        let is_read_only = options.split(',').any(|option| option == "ro");
        Some(Self { from, target: tidy(target), is_read_only })
    }

    fn of_mount(mount: &Value) -> Option<Self> {
        let text = |key: &str| mount.get(key).and_then(Value::as_str).unwrap_or_default();
        let source = text("Source").to_owned();
        let from = match text("Type") {
            "bind" if source.starts_with('/') || source.starts_with("${") => From::Host(source),
            "volume" if source.is_empty() => From::Nameless,
            "volume" => From::Volume(source),
            "tmpfs" => From::Tmpfs,
            _ => return None,
        };
        let target = text("Target");
        let is_read_only = mount.get("ReadOnly").and_then(Value::as_bool) == Some(true);
        target.starts_with('/').then(|| Self { from, target: tidy(target), is_read_only })
    }

    fn holds(&self, folder: &str) -> bool {
        is_in(folder, &self.target)
    }
}

fn tidy(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    format!("/{}", parts.join("/"))
}

fn is_in(path: &str, folder: &str) -> bool {
    let rest = path.strip_prefix(folder.trim_end_matches('/'));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// All mounts; those that Docker would refuse are told.
fn mounts(host: &Object, found: &mut Findings) -> Vec<Mount> {
    let list = |key: &str| host.get(key).and_then(Value::as_array).into_iter().flatten();
    let mut mounts = Vec::new();
    for bind in list("Binds") {
        match bind.as_str().and_then(Mount::of_bind) {
            Some(mount) => mounts.push(mount),
            None => {
                let todo = "write \"/folder/of/the/host:/folder/of/the/container\", both absolute";
                found.error(SUBJECT, format!("Binds: {bind} is no bind"), todo);
            }
        }
    }
    for mount in list("Mounts") {
        match Mount::of_mount(mount) {
            Some(mount) => mounts.push(mount),
            None => {
                let todo = "write {\"Type\": \"bind\", \"Source\": \"/..\", \"Target\": \"/..\"}";
                found.error(SUBJECT, format!("Mounts: {mount} is no mount"), todo);
            }
        }
    }
    for target in host.get("Tmpfs").and_then(Value::as_object).into_iter().flat_map(Object::keys) {
        mounts.push(Mount { from: From::Tmpfs, target: tidy(target), is_read_only: false });
    }
    mounts
}

pub(super) fn examine(host: &Object, env: &Variables, user: &str, found: &mut Findings) {
    let folder = env.get("StorageFolder").unwrap_or(FOLDER);
    let mounts = mounts(host, found);
    if folder.contains("${") {
        return;
    }
    if !folder.starts_with('/') {
        let what = format!("StorageFolder {folder:?} is not absolute");
        return found.error(SUBJECT, what, format!("write {FOLDER}, and mount something there"));
    }
    let folder = tidy(folder);
    let closest = mounts.iter().filter(|m| m.holds(&folder)).max_by_key(|m| m.target.len());
    let todo = format!(
        "write HostConfig.Binds [\"/var/lib/sphere-gateway:{folder}\"]: the folder of the host outlives the container"
    );
    let Some(mount) = closest else {
        let what = format!(
            "nothing is mounted at StorageFolder {folder}: what is kept goes with the container"
        );
        return found.error(SUBJECT, what, todo);
    };
    if mount.is_read_only {
        let what = format!("{} is mounted read-only: nothing can be kept in it", mount.target);
        return found.error(SUBJECT, what, "take the option ro, or ReadOnly, out");
    }
    match &mount.from {
        From::Tmpfs => {
            let what = format!("{} is a tmpfs: what is kept is lost with each start", mount.target);
            found.error(SUBJECT, what, todo);
        }
        From::Nameless => {
            let what =
                format!("{} is a volume without a name: it goes with the container", mount.target);
            found.error(SUBJECT, what, todo);
        }
        From::Host(path) => host_folder(path, &mount.target, user, found),
        From::Volume(name) => {
            let what = format!("StorageFolder lies on the volume {name}");
            match mount.target == FOLDER {
                true => found
                    .ok(SUBJECT, format!("{what}, which takes the owner that the image has there")),
                false => found.warning(
                    SUBJECT,
                    format!(
                        "{what}, which belongs to root: the image has no folder {}",
                        mount.target
                    ),
                    format!("mount it at {FOLDER}, where it takes the owner of the image's folder"),
                ),
            }
        }
    }
}

/// `path` without `.` and `..`, as Docker reads it.
fn resolved(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/').filter(|part| !matches!(*part, "" | ".")) {
        match part {
            ".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// Why a folder of the host cannot be the gateway's own, if it cannot; `path` is [`resolved`].
fn not_its_own(path: &str) -> Option<String> {
    if let Some(folder) = OF_OTHERS.iter().find(|folder| is_in(path, folder)) {
        return Some(format!("{folder} of the host, which is not the gateway's to take"));
    }
    let components = path.split('/').filter(|part| !part.is_empty()).count();
    // The value of a placeholder may be of many.
    let is_short = components < 2 && !path.contains("${");
    let is_home = components == 2 && is_in(path, "/home");
    (is_short || is_home || SHARED.contains(&path))
        .then(|| format!("{path} of the host itself, which others have things in"))
}

fn host_folder(path: &str, target: &str, user: &str, found: &mut Findings) {
    let tidied = resolved(path);
    if FLEETING.iter().any(|fleeting| is_in(&tidied, fleeting)) {
        let what = format!("{path} of the host is empty after each start of the machine");
        return found.error(
            SUBJECT,
            what,
            "name a folder on a disk, such as /var/lib/sphere-gateway",
        );
    }
    if tidied == "/" {
        let todo = "name a folder of its own, such as /var/lib/sphere-gateway";
        return found.error(SUBJECT, "the whole file system of the host is mounted", todo);
    }
    if let Some(whose) = not_its_own(&tidied) {
        let todo = "name a folder of its own, such as /var/lib/sphere-gateway";
        return found.error(SUBJECT, format!("StorageFolder lies in {whose}"), todo);
    }
    let what = format!("StorageFolder lies in {path} of the host, mounted at {target}");
    let user = match user.split_once(':') {
        Some((user, group)) if !group.is_empty() => format!("{user}:{group}"),
        _ => format!("{}:{0}", user.trim_end_matches(':')),
    };
    let todo = format!(
        "the folder must belong to the container's user, and Docker makes a missing one for root; on the host, once: \
         sudo mkdir -p {path} && sudo chown -R {user} {path}"
    );
    found.ok_if(SUBJECT, what, todo);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::command::manifest::finding::Level;

    fn said(host: Value, folder: Option<&str>, user: &str) -> (Level, String) {
        let mut found = Findings::default();
        let folder = folder.map(|folder| ("storagefolder".to_owned(), folder.to_owned()));
        let env = Variables(folder.into_iter().collect());
        examine(host.as_object().expect("an object"), &env, user, &mut found);
        let worst = found
            .0
            .into_iter()
            .min_by_key(|f| std::cmp::Reverse(f.level))
            .expect("something is said");
        (worst.level, format!("{} -> {}", worst.what, worst.todo.unwrap_or_default()))
    }

    #[test]
    fn where_messages_are_kept_is_judged() {
        let check = |host: Value, level: Level, part: &str| {
            let (is, text) = said(host.clone(), None, USER);
            assert!(is == level && text.contains(part), "{host}: {is:?} {text}");
        };
        const USER: &str = "13623";
        let binds = |bind: &str| json!({"Binds": [bind]});
        let chown = "sudo mkdir -p /var/x && sudo chown -R 13623:13623 /var/x";
        check(binds("/var/x:/iotedge/storage"), Level::Ok, chown);
        check(binds("/var/x:/iotedge/storage/:rw,z"), Level::Ok, chown);
        check(binds("/var/x:/iotedge"), Level::Ok, chown);
        check(binds("kept:/iotedge/storage"), Level::Ok, "the volume kept");
        check(binds("kept:/iotedge"), Level::Warning, "belongs to root");
        check(binds("/var/x:/iotedge/stor"), Level::Error, "nothing is mounted");
        check(binds("/var/x:/iotedge/storage:ro"), Level::Error, "read-only");
        check(binds("/tmp/x:/iotedge/storage"), Level::Error, "empty after each start");
        check(binds("/:/iotedge/storage"), Level::Error, "whole file system");
        check(binds("./x:/iotedge/storage"), Level::Error, "is no bind");
        check(binds("/var/x"), Level::Error, "is no bind");
        check(json!({}), Level::Error, "nothing is mounted");
        check(json!({"Tmpfs": {"/iotedge/storage": ""}}), Level::Error, "tmpfs");
        // The closest one counts.
        check(
            json!({"Binds": ["/var/x:/iotedge"], "Tmpfs": {"/iotedge/storage": ""}}),
            Level::Error,
            "tmpfs",
        );
        let mount = |mount: Value| json!({"Mounts": [mount]});
        let target = "/iotedge/storage";
        check(
            mount(json!({"Type": "bind", "Source": "/var/x", "Target": target})),
            Level::Ok,
            chown,
        );
        check(mount(json!({"Type": "volume", "Target": target})), Level::Error, "without a name");
        check(mount(json!({"Type": "tmpfs", "Target": target})), Level::Error, "tmpfs");
        check(
            mount(json!({"Type": "bind", "Source": "x", "Target": target})),
            Level::Error,
            "no mount",
        );
        let read_only =
            json!({"Type": "volume", "Source": "v", "Target": target, "ReadOnly": true});
        check(mount(read_only), Level::Error, "read-only");
    }

    /// Nothing is advised that gives away what is not the gateway's.
    #[test]
    fn a_folder_of_the_host_is_the_gateway_s_own() {
        let is = |path: &str| {
            let bind = format!("{path}:/iotedge/storage");
            said(json!({"Binds": [bind]}), None, "13623")
        };
        for path in [
            "/etc",
            "/etc/",
            "/etc/sphere-gateway",
            "/root",
            "/root/gateway",
            "/usr/lib/x",
            "/var/lib",
            "//var/./lib/",
            "/var/lib/x/../../../etc",
            "/var/lib/docker/x",
            "/var/lib/aziot/edged",
            "/var",
            "/var/log",
            "/home",
            "/home/pi",
            "/data",
            "/mnt",
            "/boot/firmware",
        ] {
            let (level, text) = is(path);
            assert_eq!(level, Level::Error, "{path}: {text}");
            let advised = "-> name a folder of its own, such as /var/lib/sphere-gateway";
            assert!(text.ends_with(advised) && !text.contains("chown"), "{path}: {text}");
        }
        for path in [
            "/var/lib/sphere-gateway",
            "/var/lib/dockerless",
            "/home/pi/gateway",
            "/srv/gateway",
            "/mnt/ssd",
            "/data/gateway",
            "/etcetera/gateway",
            "${GATEWAY_FOLDER}",
        ] {
            let (level, text) = is(path);
            assert!(level == Level::Ok && text.contains("chown"), "{path}: {text}");
        }
    }

    #[test]
    fn the_folder_and_the_user_are_those_of_the_container() {
        let check = |folder: &str, user: &str, level: Level, part: &str| {
            let (is, text) = said(json!({"Binds": ["/srv/d:/data"]}), Some(folder), user);
            assert!(is == level && text.contains(part), "{folder} {user}: {is:?} {text}");
        };
        check("/data", "1000", Level::Ok, "chown -R 1000:1000 /srv/d");
        check("/data/x/", "1000:50", Level::Ok, "chown -R 1000:50 /srv/d");
        check("data", "1000", Level::Error, "not absolute");
        check("/database", "1000", Level::Error, "nothing is mounted");
    }
}
