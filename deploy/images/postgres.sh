#!/bin/sh
# The command of the image `postgres`: makes the data folder if there is none, at once or not at all, then becomes the server.
# Its settings and the superuser's first password are mounted: /run/secrets/postgresql.conf and /run/secrets/superuser.
set -eu
home=/var/lib/rempart/postgresql
data=$home/data
if [ ! -s "$data/PG_VERSION" ]; then
    rm -rf "$home/data.partial"
    mkdir -p "$home"
    # as the embedded stack does (include/rempart/deployment/servers/postgresql.py)
    initdb -D "$home/data.partial" -U rempart_admin --pwfile=/run/secrets/superuser --auth=scram-sha-256 --data-checksums \
        --encoding=UTF8 --locale=C --locale-provider=builtin --builtin-locale=C.UTF-8 --no-instructions >/dev/null
    # the container's network is others' as well: every host may try, and nobody comes in without a password
    echo "host all all all scram-sha-256" >>"$home/data.partial/pg_hba.conf"
    mv "$home/data.partial" "$data"
fi
exec postgres -D "$data" -c config_file=/run/secrets/postgresql.conf
