-- Publish the failure of a message that is not a claim: it was too large to be read.
-- KEYS[1]  result hash of the request
-- ARGV[1]  milliseconds that the result hash lives
-- ARGV[2…] fields and values of the hash
publish_failure(KEYS[1], ARGV[1], 2)
