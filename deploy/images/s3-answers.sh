#!/bin/bash
# Of the image `object-store`: exit code 0 if its S3 gateway answers. Without credentials it says 403, and that will do.
port=$(sed -n 's/^s3\.port=//p' /run/secrets/server.options)
exec 3<>"/dev/tcp/127.0.0.1/$port" || exit 1
printf 'GET / HTTP/1.0\r\n\r\n' >&3
read -r -t 4 line <&3 && [[ $line == HTTP/* ]]
