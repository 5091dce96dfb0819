# Writes a counter to the primary that Redis.pm finds by its Sentinels, for ever; prints each number that was acknowledged.
# Arguments: service, user, password, key, then the Sentinels as ip:port.
use strict;
use warnings;
use Redis;
use Time::HiRes qw(sleep);

$| = 1;
my ($service, $user, $password, $key, @sentinels) = @ARGV;
my $primary = Redis->new(
    sentinels => \@sentinels, service => $service, username => $user, password => $password,
    reconnect => 60, every => 50_000, cnx_timeout => 2, read_timeout => 2,
    sentinels_cnx_timeout => 2, sentinels_read_timeout => 2,
);
for (my $number = 1; ; $number++) {
    if (eval { $primary->set($key, $number); 1 }) { print "$number\n" }
    else { print STDERR "Redis.pm: $@\n"; sleep 0.05 }
    sleep 0.01;
}
