//! The reference's variables (`edgehub.md` 1.2, 1.3) and what this gateway does with each.
//!
//! Owns: the lists. The settings that are honoured are where they are read ([`super::reader`]).
//! Must not know: values.

const DURABLE: &str = "messages are always kept on disk before they are acknowledged";
const ENGINE: &str = "there is no RocksDB here; see storeSettings__*";
const NET: &str = "there is no DotNetty here: the front end sizes itself";
const BATCHES: &str = "batches fill up to the hub's 256 KB by themselves";
const PROBES: &str = "the upstream connection tells by itself when it is down";
const TWINS: &str = "twins and methods are not served yet";
const DAEMON: &str =
    "not honoured yet: the IoT Edge daemon is not asked; use IotHubConnectionString";
const OTHER_FRONT: &str = "there is no AMQP or HTTPS front end yet, only MQTT";
const TESTS: &str = "a test switch of the reference";
const CLEANUP: &str = "what is settled or expired is freed within seconds";
const SHUTDOWN: &str = "shutdown is bounded by design";
const AUTH: &str = "clients are always checked against the scope";

/// Variables of the reference that have no effect, with why. Lower case, `__` as separator.
pub(super) const IGNORED: &[(&str, &str)] = &[
    ("iotedge_workloaduri", DAEMON),
    ("iotedge_apiversion", DAEMON),
    ("iotedge_authscheme", DAEMON),
    ("iotedge_modulegenerationid", DAEMON),
    ("iotedge_iothubhostname", DAEMON),
    ("iotedge_deviceid", DAEMON),
    ("iotedge_moduleid", DAEMON),
    ("iotedge_gatewayhostname", DAEMON),
    ("iotedge_parenthostname", DAEMON),
    (
        "edgemodulehubservercertificatefile",
        "pfx files are not read: use EdgeHubDevServerCertificateFile (PEM)",
    ),
    (
        "edgemodulehubservercachaincertificatefile",
        "put the chain into EdgeHubDevServerCertificateFile, leaf first",
    ),
    ("optimizeforperformance", "the footprint is small either way"),
    ("usepersistentstorage", DURABLE),
    ("storeandforwardenabled", DURABLE),
    ("enablenonpersistentstoragebackup", DURABLE),
    ("backupfolder", DURABLE),
    ("messageacktimeoutsecs", "module inputs are not served yet"),
    ("messagecleanupintervalsecs", CLEANUP),
    ("checkentirequeueoncleanup", CLEANUP),
    (
        "closecloudconnectionondevicedisconnect",
        "links close when idle: queued messages may still need them",
    ),
    ("cloudconnectionhangingtimeoutsecs", "operations cannot hang past CloudOperationTimeoutSecs"),
    ("useserverheartbeat", "the heartbeat is always on"),
    ("connectivitycheckfrequencysecs", PROBES),
    ("mintwinsyncperiodsecs", TWINS),
    ("reportedpropertiessyncfrequencysecs", TWINS),
    ("twinmanagerversion", TWINS),
    ("encrypttwinstore", TWINS),
    ("configrefreshfrequencysecs", "routes come from edgeHubTwinFile for now"),
    ("configsource", "routes come from edgeHubTwinFile for now"),
    ("maxupstreambatchsize", BATCHES),
    ("upstreamfanoutfactor", BATCHES),
    ("cachetokens", AUTH),
    ("authenticationmode", AUTH),
    ("trackdevicestate", AUTH),
    ("nestededgeenabled", "the nested scope API is always used"),
    ("apiproxymoduleid", OTHER_FRONT),
    ("clientcertauthenabled", "client certificates are always asked for"),
    ("sslprotocols", "TLS 1.2 and 1.3 are offered, nothing older"),
    ("https_proxy", "not honoured yet: the hub is reached directly"),
    ("iothubconnectionpoolsize", "one connection serves all identities"),
    ("shutdownwaitperiod", SHUTDOWN),
    ("protocoltimeoutinsecs", SHUTDOWN),
    ("servercertificaterenewafterinms", DAEMON),
    ("maxcheckcertexpiryinms", DAEMON),
    ("enableroutinglogging", "use RuntimeLogLevel=debug"),
    ("enablesdkdebuglogs", "use RuntimeLogLevel=debug"),
    ("rocksdb_maxtotalwalsize", ENGINE),
    ("rocksdb_maxmanifestfilesize", ENGINE),
    ("rocksdb_maxopenfiles", ENGINE),
    ("storage_loglevel", ENGINE),
    ("experimentalfeatures__enabled", TESTS),
    ("experimentalfeatures__disablecloudsubscriptions", TESTS),
    ("experimentalfeatures__disableconnectivitycheck", TESTS),
    ("edgehubuser_id", "the user is the container's"),
    ("mqtteventsprocessorthreadcount", NET),
    ("mqttsettings__threadcount", NET),
    ("mqttsettings__listenbacklogsize", NET),
    ("mqttsettings__usepooledbuffers", NET),
    ("mqttsettings__retainpropertyname", "the names are fixed: mqtt-retain, mqtt-dup"),
    ("mqttsettings__duppropertyname", "the names are fixed: mqtt-retain, mqtt-dup"),
    ("mqttsettings__qospropertyname", "the names are fixed: mqtt-retain, mqtt-dup"),
    ("mqttsettings__defaultpublishtoclientqos", "messages to clients go at QoS 1"),
    ("amqpsettings__enabled", OTHER_FRONT),
    ("amqpsettings__scheme", OTHER_FRONT),
    ("amqpsettings__port", OTHER_FRONT),
    ("httpsettings__enabled", OTHER_FRONT),
    ("httpsettings__port", OTHER_FRONT),
    ("metrics__listener__metricshistogrammaxage", "summaries look back one hour"),
];

/// Starts of names that only settings of ours or the reference's have: such a name that nobody knows is a slip.
pub(super) const PREFIXES: &[&str] = &[
    "mqttsettings__",
    "amqpsettings__",
    "httpsettings__",
    "metrics__",
    "upstreamsettings__",
    "storesettings__",
    "storeandforward",
    "experimentalfeatures__",
    "edgehub",
    "edgemodulehub",
    "devicescopecache",
    "cloudconnection",
    "iotedge_",
    "rocksdb_",
];

/// Words that make a variable's value a secret, whoever's it is.
pub(super) const SECRET_WORDS: &[&str] =
    &["connectionstring", "key", "secret", "password", "token"];
