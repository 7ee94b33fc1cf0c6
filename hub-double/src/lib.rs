//! Local stand-in for IoT Hub.
