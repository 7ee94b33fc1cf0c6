//! Topic filters and how they match (section 4.7 of the standard).
//!
//! Owns: [`TopicFilter`]. Invariant: a value of that type is a well-formed filter. Must not know: who subscribed.

/// Why a text is not a topic filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// Empty \[MQTT-4.7.3-1\].
    #[error("the topic filter is empty [MQTT-4.7.3-1]")]
    Empty,
    /// `#` that is not the last level by itself \[MQTT-4.7.1-2\].
    #[error("the topic filter has a # that is not its whole last level [MQTT-4.7.1-2]")]
    MultiLevel,
    /// `+` that does not fill its level \[MQTT-4.7.1-3\].
    #[error("the topic filter has a + that does not fill its level [MQTT-4.7.1-3]")]
    SingleLevel,
}

/// A well-formed topic filter.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TopicFilter(Box<str>);

impl TopicFilter {
    /// Checks and keeps `text`.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        check(text)?;
        Ok(Self(text.into()))
    }

    /// The filter as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `topic` (a topic name, without wildcards) matches.
    pub fn matches(&self, topic: &str) -> bool {
        // A filter that starts with a wildcard does not reach the server's own topics [MQTT-4.7.2-1].
        if topic.starts_with('$') && self.0.starts_with(['#', '+']) {
            return false;
        }
        let mut levels = topic.split('/');
        for pattern in self.0.split('/') {
            if pattern == "#" {
                // "sport/#" matches "sport" too: # stands for the parent and any number of levels below.
                return true;
            }
            match levels.next() {
                Some(level) if pattern == "+" || pattern == level => {}
                _ => return false,
            }
        }
        levels.next().is_none()
    }
}

/// Checks a topic filter without keeping it.
pub fn check(text: &str) -> Result<(), FilterError> {
    if text.is_empty() {
        return Err(FilterError::Empty);
    }
    let mut levels = text.split('/').peekable();
    while let Some(level) = levels.next() {
        if level.contains('#') && (level != "#" || levels.peek().is_some()) {
            return Err(FilterError::MultiLevel);
        }
        if level.contains('+') && level != "+" {
            return Err(FilterError::SingleLevel);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_match(filter: &str, topic: &str, expected: bool) {
        let parsed = TopicFilter::parse(filter).unwrap();
        assert_eq!(parsed.matches(topic), expected, "{filter} against {topic}");
    }

    #[test]
    fn the_examples_of_the_standard() {
        for topic in [
            "sport/tennis/player1",
            "sport/tennis/player1/ranking",
            "sport/tennis/player1/score/wimbledon",
        ] {
            check_match("sport/tennis/player1/#", topic, true);
        }
        check_match("sport/#", "sport", true);
        check_match("#", "sport", true);
        check_match("sport/tennis/+", "sport/tennis/player1", true);
        check_match("sport/tennis/+", "sport/tennis/player1/ranking", false);
        check_match("sport/+", "sport", false);
        check_match("sport/+", "sport/", true);
        check_match("+/+", "/finance", true);
        check_match("/+", "/finance", true);
        check_match("+", "/finance", false);
        check_match("#", "$SYS/x", false);
        check_match("+/monitor/Clients", "$SYS/monitor/Clients", false);
        check_match("$SYS/#", "$SYS/monitor/Clients", true);
        check_match("$SYS/monitor/+", "$SYS/monitor/Clients", true);
        check_match("a/b", "a/B", false);
        check_match("a/b", "a/b/", false);
    }

    #[test]
    fn malformed_filters() {
        for (text, expected) in [
            ("", FilterError::Empty),
            ("sport/tennis#", FilterError::MultiLevel),
            ("sport/tennis/#/ranking", FilterError::MultiLevel),
            ("##", FilterError::MultiLevel),
            ("sport+", FilterError::SingleLevel),
            ("a/+b/c", FilterError::SingleLevel),
        ] {
            assert_eq!(TopicFilter::parse(text), Err(expected), "{text}");
        }
        for good in ["+", "#", "/", "+/tennis/#", "sport/+/player1", "$iothub/methods/POST/#"] {
            assert!(TopicFilter::parse(good).is_ok(), "{good}");
        }
    }
}
