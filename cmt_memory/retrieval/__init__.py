"""From a question to the passages whose memories to use."""
