"""What `ociexport help TOPIC` says; each fits a screen of 80 columns."""

from __future__ import annotations

TOPICS = {
    "references": """\
Image references: [REGISTRY/]REPOSITORY[:TAG][@DIGEST]

  debian                              docker.io/library/debian:latest
  debian:12                           docker.io/library/debian:12
  team/app:1.4                        docker.io/team/app:1.4
  registry.example:5000/team/app:1    as it stands
  ghcr.io/team/app@sha256:…           one that can't change
  debian:12@sha256:…                  the digest counts; the tag is kept as name

The first part is a registry if it has a dot or a colon, or is localhost.
docker:// before a reference tells that it is one, where a file or directory has
the same name. Short names of registries.conf ([aliases],
unqualified-search-registries) are obeyed.
""",
    "platforms": """\
Platforms: OS/ARCH[/VARIANT], as Go calls them; linux is understood

  linux/amd64   linux/arm64   linux/arm/v7   linux/386   linux/riscv64
  x86_64, aarch64, armhf, i686        are understood too
  windows(10.0.17763)/amd64           with the version of the system

Taken is --platform, or else DOCKER_DEFAULT_PLATFORM, or else this machine's.
arm/v6 runs on arm/v7, amd64/v2 on amd64/v3, so the highest that runs is taken.
pull takes several (--platform amd64,arm64) or all (--all). Attestations, whose
platform is unknown/unknown, are no platforms; --all brings them.
""",
    "sources": """\
Sources: wherever a command reads an image

  debian:12                  a registry
  ./layout                   the only image of an OCI layout
  ./layout:12                one of several, by tag or full name
  ./layout@sha256:…          by digest;  oci:layout:@0 by position
  ./images.tar               an archive: a layout in a tar, or what docker save,
                             podman, skopeo, crane or kaniko wrote
  ./images.tar:app:1         one of several in it
  -                          an archive on standard input
  dir:saved                  the directory of files that skopeo calls dir:

A path begins with /, ./ or ../; any other word is an image in a registry.
docker://, oci:, oci-archive:, docker-archive: and dir: tell what a name is of.
What an archive is, is told by what is in it, and not by its name.
""",
    "paths": """\
Paths: what is in an image, for ls, cat and which-layer

  /etc/hostname   etc/hostname        the same: from the image's root
  /lib/x                              through a link (/lib to usr/lib) as well
  ../../etc                           /etc: nothing leads out of the image

Links never lead to this machine. cat follows one at the very end too, ls where
it leads to a directory (not with -d), which-layer with -L. ls --layers takes
PATH as each layer has it, and follows none.

Names may hold any bytes. Printed are escapes (\\x1b, and \\\\ for a backslash),
ls -0 has them as they are, --json has those that are no UTF-8 in base64 too.
Layers are read from the top down, to their ends, and only as far as needed.
""",
    "credentials": """\
Credentials, in the order in which they are looked for

  1. --creds, -u with --password-stdin, --registry-token
  2. DOCKER_AUTH_CONFIG, the content of such a file
  3. --authfile or REGISTRY_AUTH_FILE, and then nothing else
  4. $XDG_RUNTIME_DIR/containers/auth.json, or /run/containers/UID/auth.json
  5. ~/.config/containers/auth.json
  6. $DOCKER_CONFIG/config.json or ~/.docker/config.json
  7. ~/.dockercfg

Within a file: credHelpers before credsStore before auths; the longest entry
that fits (host/team/app, host/team, host). ociexport login writes to 4 or 5,
ociexport auth explain IMAGE says what is found. Credentials go to the registry
that was named and to its token service, never where a redirect leads.
""",
    "configuration": """\
Defaults of options, first to last

  1. the command line
  2. OCIEXPORT_<OPTION> in the environment: OCIEXPORT_JOBS=8
  3. the command's table in the file
  4. the file's top level, for each command that has the option
  5. what --help says

A variable or a name in the file that is no option's is told; one that does not
fit what a command does, as cache for an archive, is left out.
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

    0  done
    1  another failure; diff: there are differences
    2  the command line or the configuration
    3  not found: image, tag, layout, file
    4  the registry refused, or wants to know who asks
    5  the network, after all retries
    6  the registry's quota is used up
    7  the bytes are not what they should be: digest, size, diff_id, signature
    8  an image or archive that breaks the specification, or is unsafe
    9  the disk or the file system
   10  no image for the platform
  129  hung up
  130  interrupted      143  terminated
  141  who reads the output has read enough (a pipe to head)

An error is one line on standard error, and a second one, hint:, where you can
act.
""",
}
