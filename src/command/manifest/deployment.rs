//! A deployment manifest as edgeAgent reads it: its shape, the system modules, the modules beside them.
//!
//! Owns: the walk through the document. Must not know: what a container of edgeHub needs ([`super::container`]), routes
//! ([`super::routing`]).

use serde_json::{Map, Value};

use super::Settings;
use super::container::{self, Variables};
use super::create_options::{self, CHUNK_CHARS_MAX, CHUNKS_MAX};
use super::finding::{Findings, Level};
use super::{placeholder, ports, routing};
use crate::desired::{self, Document};

pub(super) type Object = Map<String, Value>;

const AGENT: &str = "$edgeAgent";
const HUB_IMAGE_OF_MICROSOFT: &str = "azureiotedge-hub";

/// What a module may say. What else is there, nobody reads, and some tools refuse.
const MODULE_KEYS: [&str; 8] = [
    "type",
    "status",
    "restartPolicy",
    "settings",
    "env",
    "imagePullPolicy",
    "startupOrder",
    "version",
];

/// Most bytes of a module's desired properties that IoT Hub takes.
const DESIRED_BYTES_MAX: usize = 32 * 1024;

/// What `restartPolicy` may be.
const RESTART: [&str; 4] = ["always", "on-unhealthy", "on-failure", "never"];

/// A container that edgeAgent makes.
struct Module<'v> {
    name: &'v str,
    is_system: bool,
    entry: &'v Object,
}

/// Looks at a whole document; returns its kind, and what was found.
pub(super) fn examine(bytes: &[u8], settings: &Settings) -> (&'static str, Findings) {
    let mut found = Findings::default();
    let Some(document) = parse(bytes, &mut found) else { return ("none", found) };
    let is_template = document.contains_key("$schema-template");
    let kind = if is_template { "deploymentTemplate" } else { "deploymentManifest" };
    let Some(modules_content) = modules_content(&document) else {
        let todo = "give a deployment manifest or a template of one: {\"modulesContent\": ..}";
        found.error("document", "there is no modulesContent object in it", todo);
        return ("none", found);
    };
    if let Some(version) = document.get("$schema-template").filter(|v| *v != "4.0.0") {
        let what = format!("$schema-template is {version}, an old form or none");
        found.warning("document", what, "write \"4.0.0\"");
    }
    let agent = modules_content.get(AGENT).and_then(Value::as_object);
    let is_layer_key = |key: &String| key.starts_with("properties.desired.");
    let is_layer = |part: &Object| part.keys().any(is_layer_key);
    let hub = modules_content.get("$edgeHub").and_then(Value::as_object);
    if agent.is_some_and(is_layer) || (agent.is_none() && hub.is_some_and(is_layer)) {
        let what = "this is a layer of a deployment: only its routes were looked at";
        found.warning("document", what, "check the deployment below it, too");
        routing::examine(bytes, &mut found);
        return ("layeredDeployment", found);
    }
    placeholder::examine(&document, is_template, &mut found);
    sizes(modules_content, &mut found);
    match agent.and_then(|agent| agent.get("properties.desired")).and_then(Value::as_object) {
        Some(agent) => agent_examined(agent, is_template, settings, &mut found),
        None => found.error(
            AGENT,
            "there is no $edgeAgent with an object \"properties.desired\"",
            "a manifest replaces all that is deployed: add it, with both system modules",
        ),
    }
    match is_template.then(|| with_version(&document)).flatten() {
        Some(text) => routing::examine(text.as_bytes(), &mut found),
        None => routing::examine(bytes, &mut found),
    }
    (kind, found)
}

/// A template whose `$edgeHub` leaves its schema version open, with the one that template 4.0 is for.
fn with_version(document: &Object) -> Option<String> {
    let mut document = Value::Object(document.clone());
    let version = document
        .get_mut("modulesContent")?
        .get_mut("$edgeHub")?
        .get_mut("properties.desired")?
        .get_mut("schemaVersion")?;
    version.as_str().filter(|version| version.starts_with("${"))?;
    *version = "1.2".into();
    Some(document.to_string())
}

fn parse(bytes: &[u8], found: &mut Findings) -> Option<Object> {
    let text = desired::text(bytes);
    let text = text.as_deref().map(|text| text.strip_prefix('\u{feff}').unwrap_or(text));
    if let Some(Ok(value)) = text.ok().map(serde_json::from_str) {
        return Some(value);
    }
    // The same words as for routes: they say what to do about the place.
    let problems = Document::from_bytes(bytes).err().map(|e| e.problems).unwrap_or_default();
    problems.into_iter().for_each(|problem| found.told(Level::Error, "document", problem));
    if found.0.is_empty() {
        found.error("document", "it is no JSON object", "give a deployment manifest");
    }
    None
}

fn modules_content(document: &Object) -> Option<&Object> {
    let outer = document.get("content").and_then(Value::as_object).unwrap_or(document);
    ["modulesContent", "moduleContent"].iter().find_map(|key| outer.get(*key))?.as_object()
}

fn sizes(modules_content: &Object, found: &mut Findings) {
    for (name, part) in modules_content {
        let bytes = part.get("properties.desired").map_or(0, |part| part.to_string().len());
        if bytes > DESIRED_BYTES_MAX {
            let what = format!(
                "its desired properties have {bytes} bytes, and {DESIRED_BYTES_MAX} is the most"
            );
            found.error(name, what, "shorten them: IoT Hub refuses the manifest");
        }
    }
}

fn agent_examined(agent: &Object, is_template: bool, settings: &Settings, found: &mut Findings) {
    match agent.get("schemaVersion").and_then(Value::as_str) {
        Some("1.0" | "1.1") => {}
        Some(placeholder) if is_template && placeholder.contains("${") => {}
        Some(other) => {
            let what = format!("schemaVersion {other:?} is not one that edgeAgent reads");
            found.error(AGENT, what, "write \"1.1\"");
        }
        None => found.error(AGENT, "there is no schemaVersion", "write \"schemaVersion\": \"1.1\""),
    }
    runtime(agent, found);
    let mut modules = Vec::new();
    for (group, is_system) in [("systemModules", true), ("modules", false)] {
        match agent.get(group) {
            Some(Value::Object(group)) => {
                for (name, entry) in group {
                    match entry.as_object() {
                        Some(entry) => modules.push(Module { name, is_system, entry }),
                        None => found.error(name, "it is no object", "write {\"settings\": ..}"),
                    }
                }
            }
            None if !is_system => {
                found.error(AGENT, "there is no modules", "write \"modules\": {} for none");
            }
            None => {}
            Some(_) => found.error(AGENT, format!("{group} is no object"), "write an object"),
        }
    }
    for name in ["edgeAgent", "edgeHub"] {
        if !modules.iter().any(|module| module.is_system && module.name == name) {
            let what = format!("systemModules has no {name}");
            found.error(AGENT, what, "add it: IoT Hub refuses a manifest without both");
        }
    }
    let mut published = Vec::new();
    for module in &modules {
        if let Some(options) = module_examined(module, is_template, found) {
            if module.is_hub() {
                let env = variables(module, settings, found);
                container::examine(&options, &env, found);
            } else {
                secrets(module, settings, found);
            }
            rotation(module, &options, found);
            ports::published(module.name, &options, &mut published, found);
        }
    }
    ports::clashes(&published, found);
}

fn runtime(agent: &Object, found: &mut Findings) {
    let subject = "$edgeAgent runtime";
    let Some(runtime) = agent.get("runtime").and_then(Value::as_object) else {
        let todo = "add {\"type\": \"docker\", \"settings\": {\"minDockerVersion\": \"v1.25\"}}";
        return found.error(subject, "there is no runtime object", todo);
    };
    if runtime.get("type").and_then(Value::as_str) != Some("docker") {
        found.error(subject, "its type is not \"docker\"", "write \"type\": \"docker\"");
    }
    let registries = runtime.get("settings").and_then(|s| s.get("registryCredentials"));
    for (name, entry) in registries.and_then(Value::as_object).into_iter().flatten() {
        let is_blank = |key: &str| entry.get(key).and_then(Value::as_str).is_none_or(str::is_empty);
        let missing: Vec<&str> =
            ["address", "username", "password"].into_iter().filter(|key| is_blank(key)).collect();
        if !missing.is_empty() {
            let what = format!("registryCredentials {name}: no {}", missing.join(", no "));
            found.error(subject, what, "fill it in, or take the entry out if nobody has to log in");
        }
    }
}

impl Module<'_> {
    fn is_hub(&self) -> bool {
        self.is_system && self.name == "edgeHub"
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.entry.get(key).and_then(Value::as_str)
    }
}

/// What every module needs; its createOptions, if they can be read.
fn module_examined(module: &Module<'_>, is_template: bool, found: &mut Findings) -> Option<Object> {
    let name = module.name;
    name_examined(module, found);
    if module.text("type") != Some("docker") {
        found.error(name, "its type is not \"docker\"", "write \"type\": \"docker\"");
    }
    running(module, found);
    let Some(settings) = module.entry.get("settings").and_then(Value::as_object) else {
        found.error(
            name,
            "there is no settings object",
            "add settings with image and createOptions",
        );
        return None;
    };
    image(module, settings.get("image").and_then(Value::as_str).unwrap_or_default(), found);
    match create_options::join(settings, is_template) {
        Ok((options, chars)) => {
            if chars > 0 {
                let chunks = chars.div_ceil(CHUNK_CHARS_MAX);
                let what = format!("createOptions: {chunks} of {CHUNKS_MAX} chunks");
                found.ok(name, what);
            }
            Some(options)
        }
        Err(wrong) => {
            found.error(name, wrong.what, wrong.todo);
            None
        }
    }
}

fn name_examined(module: &Module<'_>, found: &mut Findings) {
    let name = module.name;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
    if module.is_system && !["edgeAgent", "edgeHub"].contains(&name) {
        let todo = "move it to modules: there are edgeAgent and edgeHub, and no others";
        found.error(name, "it is no system module", todo);
    } else if name.is_empty() || !name.chars().all(is_plain) {
        found.error(name, "a module has letters, digits, _ and - in its name", "rename it");
    }
    for key in module.entry.keys().filter(|key| !MODULE_KEYS.contains(&key.as_str())) {
        let what = format!("{key:?} is nothing that a module has");
        let todo = format!("correct it, or take it out: there are {}", MODULE_KEYS.join(", "));
        found.warning(name, what, todo);
    }
}

fn running(module: &Module<'_>, found: &mut Findings) {
    let name = module.name;
    if module.is_system && name == "edgeAgent" {
        return;
    }
    match module.text("status") {
        Some("running") => {}
        Some("stopped") if !module.is_hub() => {}
        Some("stopped") => found.error(name, "its status is \"stopped\"", "write \"running\""),
        _ => found.error(name, "its status is neither running nor stopped", "write \"running\""),
    }
    match module.text("restartPolicy") {
        Some("always") if module.is_hub() => found.ok(name, "it is started again whenever it ends"),
        Some(policy) if RESTART.contains(&policy) => {
            if module.is_hub() {
                let what = format!("restartPolicy is {policy:?}: it may stay ended");
                found.error(
                    name,
                    what,
                    "write \"always\": the gateway ends when its disk fails it",
                );
            }
        }
        _ => {
            let todo = "write \"always\"";
            found.error(
                name,
                "restartPolicy is not always, on-unhealthy, on-failure or never",
                todo,
            );
        }
    }
    match module.entry.get("imagePullPolicy").and_then(Value::as_str) {
        None | Some("on-create" | "never") => {}
        Some(other) => {
            let what = format!("imagePullPolicy is {other:?}");
            found.error(name, what, "write \"on-create\" or \"never\", or leave it out");
        }
    }
}

fn image(module: &Module<'_>, image: &str, found: &mut Findings) {
    let name = module.name;
    let last = image.rsplit('/').next().unwrap_or_default();
    let is_wrong = image.is_empty()
        || image.starts_with('/')
        || image.contains(char::is_whitespace)
        || last.starts_with(':');
    if is_wrong {
        let what = format!("its image {image:?} is no image name");
        return found.error(
            name,
            what,
            "write registry/name:version; a variable of it may be empty",
        );
    }
    if module.is_hub() && image.contains(HUB_IMAGE_OF_MICROSOFT) {
        let todo = "name the image of sphere-gateway, by a variable or in full";
        return found.error(name, format!("its image {image} is the original edgeHub"), todo);
    }
    // A placeholder for the image has its tag in it.
    let is_open = last.ends_with('}') && !last.contains(':');
    match last.split_once(':') {
        _ if is_open || last.contains("@sha256:") => {}
        Some((_, "latest")) | None => {
            let todo = "write a version: edgeAgent does not pull a tag again that it has";
            found.warning(name, format!("its image {image} has no version of its own"), todo);
        }
        Some(_) => {}
    }
    if module.is_hub() {
        found.ok(name, format!("its image is {image}"));
    }
}

/// The variables of edgeHub, judged by the gateway's own reader.
fn variables(module: &Module<'_>, settings: &Settings, found: &mut Findings) -> Variables {
    let env = secrets(module, settings, found);
    for verdict in (settings.judge)(&env) {
        let subject = format!("edgeHub env {}", verdict.name);
        match verdict.level {
            super::EnvLevel::Fine => found.ok(&subject, verdict.what),
            super::EnvLevel::Warning => found.warning(&subject, verdict.what, verdict.todo),
            super::EnvLevel::Error => found.error(&subject, verdict.what, verdict.todo),
        }
    }
    Variables(env)
}

/// The variables of a module; those in which a secret lies open are told.
fn secrets(
    module: &Module<'_>,
    settings: &Settings,
    found: &mut Findings,
) -> Vec<(String, String)> {
    let mut env = Vec::new();
    for (name, entry) in module.entry.get("env").and_then(Value::as_object).into_iter().flatten() {
        let subject = format!("{} env {name}", module.name);
        if name.is_empty() || name.contains(|c: char| c.is_whitespace() || "+#$.".contains(c)) {
            found.error(
                &subject,
                "IoT Hub's tools refuse its name",
                "rename it: none of + # $ . or a blank",
            );
        }
        let value = match entry.get("value") {
            Some(Value::String(value)) => value.clone(),
            Some(value @ (Value::Number(_) | Value::Bool(_))) => value.to_string(),
            _ => {
                found.error(&subject, "it has no value", "write {\"value\": \"..\"}");
                continue;
            }
        };
        if (settings.is_secret)(name, &value) && !value.starts_with("${") {
            let what = "a secret lies open in it: who may read the twin can read it";
            found.warning(&subject, what, "take it out; the IoT Edge daemon keeps edgeHub's key");
        }
        env.push((name.clone(), value));
    }
    if module.entry.get("env").is_some_and(|env| !env.is_object()) {
        found.error(module.name, "env is no object", "write {\"NAME\": {\"value\": \"..\"}}");
    }
    env
}

/// Whether the container's log stays small.
fn rotation(module: &Module<'_>, options: &Object, found: &mut Findings) {
    let log = options.get("HostConfig").and_then(|host| host.get("LogConfig"));
    let max = log.and_then(|log| log.get("Config")).and_then(|config| config.get("max-size"));
    let todo = "write HostConfig.LogConfig {\"Type\": \"json-file\", \"Config\": {\"max-size\": \"10m\", \"max-file\": \"3\"}}";
    match log.and_then(|log| log.get("Type")).and_then(Value::as_str) {
        Some("json-file") | None if max.is_some_and(|max| !max.is_string()) => {
            found.error(module.name, "max-size of its log is no string", todo);
        }
        Some("json-file") if max.is_some() => found.ok(module.name, "its log is rotated"),
        Some("json-file") | None => {
            let what = "its log is not rotated, unless the engine's daemon.json says so: it fills the disk";
            found.warning(module.name, what, todo);
        }
        // The others rotate by themselves, or write elsewhere.
        Some(_) => {}
    }
}
