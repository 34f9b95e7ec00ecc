#!/bin/sh
# Make the environments of the peers, one folder each. What is there already stays.
#
#   benchmarks/peers.sh FOLDER [PEER ...]     peers: fastmri deepinv sigpy bartorch mrpro; all if none is named
#
# PYTHON names the interpreter (python3). A peer that pip cannot install is named at the end, and the exit code is 1.
set -u
peers="fastmri deepinv sigpy bartorch mrpro"
folder=${1:?usage: benchmarks/peers.sh FOLDER [PEER ...], PEER one of $peers}
shift
failed=""
for peer in ${*:-$peers}; do
  case $peer in
    fastmri) packages="torch==2.13.0 h5py requests pyyaml pandas tqdm scikit-image==0.26.0 torchmetrics" ;;
    deepinv) packages="torch==2.13.0 deepinv==0.5.0" ;;
    sigpy) packages="sigpy==0.1.27 PyWavelets" ;;
    bartorch) packages="torch==2.13.0 bartorch==0.0.17" ;;
    mrpro) packages="torch==2.13.0 mrpro==0.261015" ;;
    *) echo "there is no peer $peer; choose from $peers" >&2; exit 1 ;;
  esac
  environment=$folder/$peer
  [ -e "$environment/ready" ] && continue
  echo "making $environment"
  # fastmri 0.3.0 asks for packages that it does not need here
  "${PYTHON:-python3}" -m venv "$environment" &&
    "$environment/bin/python" -m pip install --quiet $packages &&
    { [ "$peer" != fastmri ] || "$environment/bin/python" -m pip install --quiet --no-deps fastmri==0.3.0; } &&
    touch "$environment/ready" || failed="$failed $peer"
done
[ -z "$failed" ] || { echo "not installed:$failed" >&2; exit 1; }
