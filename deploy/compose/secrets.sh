#!/bin/sh
# Adds the secrets that docker-compose.yml requires to .env, and keeps those that are there.
# Usage, in the folder of docker-compose.yml: sh deploy/compose/secrets.sh
set -eu
umask 077
touch .env
chmod 600 .env
for name in POSTGRES_PASSWORD SECRET_KEY MONGARS_BOOTSTRAP_API_KEY RAY_AUTH_TOKEN RAY_SERVE_TOKEN; do
  if ! grep -q "^$name=." .env; then
    value=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
    printf '%s=%s\n' "$name" "$value" >>.env
    echo "made $name"
  fi
done
