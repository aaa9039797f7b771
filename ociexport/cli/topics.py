"""The texts of `ociexport help TOPIC`; each fits a screen of 80 columns."""

from __future__ import annotations

TOPICS = {
    "references": """\
Image references: [REGISTRY/]REPOSITORY[:TAG][@DIGEST]

  debian                              docker.io/library/debian:latest
  debian:12                           docker.io/library/debian:12
  team/app:1.4                        docker.io/team/app:1.4
  registry.example:5000/team/app:1    unchanged
  ghcr.io/team/app@sha256:…           by digest, which can't change
  debian:12@sha256:…                  by digest; the tag is kept as a name

The first part is a registry if it has a dot or a colon, or is localhost.
docker:// before a name makes it an image in a registry, even if a file or
directory has the same name. Short names in registries.conf ([aliases],
unqualified-search-registries) are resolved.
""",
    "platforms": """\
Platforms: OS/ARCH[/VARIANT], with Go's names; OS may be left out for linux

  linux/amd64   linux/arm64   linux/arm/v7   linux/386   linux/riscv64
  x86_64, aarch64, armhf, i686        other names that are accepted
  windows(10.0.17763)/amd64           with the version of the OS

The platform is --platform, or else DOCKER_DEFAULT_PLATFORM, or else this
machine's. arm/v6 runs on arm/v7, and amd64/v2 on amd64/v3: the highest variant
that runs is selected. pull accepts several platforms (--platform amd64,arm64)
or all (--all). Attestations have the platform unknown/unknown, which can't be
selected; --all copies them.
""",
    "sources": """\
Sources: where commands read images from

  debian:12                  a registry
  ./layout                   the only image of an OCI layout
  ./layout:12                one of several images, by tag or full name
  ./layout@sha256:…          by digest;  oci:layout:@0 by position
  ./images.tar               an archive: a layout in a tar, or an archive by
                             docker save, podman, skopeo, crane or kaniko
  ./images.tar:app:1         one of several images in an archive
  -                          an archive on standard input
  dir:saved                  a directory in skopeo's dir: format

A path begins with /, ./ or ../; any other word is an image in a registry.
The prefixes docker://, oci:, oci-archive:, docker-archive: and dir: state the
kind of source. The kind of an archive is detected from its content, not from
its name.
""",
    "paths": """\
Paths: files in an image, for ls, cat and which-layer

  /etc/hostname   etc/hostname        the same file, from the image's root
  /lib/x                              found through a link (/lib to usr/lib)
  ../../etc                           /etc: no path leads out of the image

Links never lead to files of this machine. Links within a path are followed. A
link at its end is followed by cat, by ls if its target is a directory (not with
-d), and by which-layer with -L. ls --layers compares PATH with the paths in
each layer, and follows no links.

Names may hold any bytes. They are printed with escapes (\\x1b, and \\\\ for a
backslash). ls -0 prints them unchanged; --json adds base64 for names that are
not UTF-8. Layers are read from the top down, each to its end, and no further
than needed.
""",
    "credentials": """\
Credentials, in the order in which they are searched

  1. --creds, -u with --password-stdin, --registry-token
  2. DOCKER_AUTH_CONFIG: the content of a config.json
  3. --authfile or REGISTRY_AUTH_FILE; if given, the search ends there
  4. $XDG_RUNTIME_DIR/containers/auth.json, or /run/containers/UID/auth.json
  5. ~/.config/containers/auth.json
  6. $DOCKER_CONFIG/config.json or ~/.docker/config.json
  7. ~/.dockercfg

Within a file: credHelpers before credsStore before auths; the longest entry
that matches (host/team/app, host/team, host). ociexport login writes to 6, or
with --compat containers to 4 or 5. ociexport auth explain IMAGE shows what is
found. Credentials are sent to the registry in the image's name and to its token
service, never to the target of a redirect.
""",
    "configuration": """\
Values of options, highest precedence first

  1. the command line
  2. OCIEXPORT_<OPTION> in the environment: OCIEXPORT_JOBS=8
  3. the command's table in the file
  4. the file's top level, for each command that has the option
  5. the default that --help shows

An unknown option in the file is an error, an unknown variable a warning. An
option that does not fit the command line, such as cache for an archive, is
ignored.
The file is $OCIEXPORT_CONFIG, or else ~/.config/ociexport/ociexport.toml, or
else /etc/ociexport/ociexport.toml:

  retry-times = 5

  [pull]
  jobs = 8
  cache = "/var/cache/ociexport"
  mirror = ["docker.io=https://mirror.example"]
""",
    "exit-codes": """\
Exit codes, the same for every command, and stable

    0  success
    1  another failure; diff: there are differences
    2  wrong command line or configuration
    3  not found: image, tag, layout, file
    4  the registry requires a login, or refused access
    5  network failure, after all retries
    6  the registry's quota is used up
    7  integrity: wrong digest, size, diff_id or signature
    8  the image or archive breaks the specification, or is unsafe
    9  failure of the disk or the file system
   10  no image for the platform
  129  hung up
  130  interrupted      143  terminated
  141  the reader of the output has ended (a pipe to head)

An error is one line on standard error. A second line, hint:, follows if you can
act on it.
""",
}
