#!/bin/sh
# Install Debian packages where that is possible: as root (or with sudo that asks nothing) and with apt-get.
# Exit code 1, and one line that says so, where it isn't.
command -v apt-get >/dev/null || { echo "No apt-get here to install $* with." >&2; exit 1; }
if [ "$(id -u)" = 0 ]; then run=""; elif sudo -n true 2>/dev/null; then run="sudo"; else
    echo "Not root, so $* can't be installed." >&2
    exit 1
fi
echo "Installing $* ..."
export DEBIAN_FRONTEND=noninteractive
$run apt-get update -qq >/dev/null 2>&1
# Debian starts a server when it is installed; a policy file says no, so that the tests' own are the only ones.
policy=/usr/sbin/policy-rc.d
[ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' | $run tee $policy >/dev/null && $run chmod +x $policy && made=1; }
$run apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1
result=$?
[ -n "$made" ] && $run rm -f $policy
[ $result = 0 ] || echo "apt-get could not install $*." >&2
exit $result
