use super::*;

fn read_all(path: &Path) -> Vec<VideoFrame> {
    let mut source = Source::open(path).unwrap();
    std::iter::from_fn(|| source.next_frame().unwrap()).collect()
}

fn record_all(path: &Path, frames: &[VideoFrame]) {
    let (sender, receiver) = mpsc::channel(frames.len());
    frames.iter().for_each(|frame| sender.try_send(frame.clone()).unwrap());
    drop(sender);
    record(path, frames[0].codec, receiver).unwrap();
}

#[test]
fn ivf_comes_back_with_its_times() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("recorded.ivf");
    let frame = |index: u32| {
        // A key frame of 320 x 180, then frames that aren't.
        let mut data = vec![0x10, 2, 0, 0x9D, 0x01, 0x2A, 0x40, 0x01, 0xB4, 0x00, index as u8];
        data[0] |= u8::from(index > 0);
        VideoFrame::new(VideoCodec::Vp8, Duration::from_millis(40) * index, data)
    };
    let frames: Vec<VideoFrame> = (0..70).map(frame).collect();
    record_all(&path, &frames);
    assert_eq!(read_all(&path), frames);
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(bytes[12..16], [0x40, 0x01, 0xB4, 0x00], "the picture's size");
    assert_eq!(bytes[24..28], 70_u32.to_le_bytes());
    // A file that is cut off anywhere ends sooner.
    for length in (0..bytes.len()).step_by(7) {
        std::fs::write(&path, &bytes[..length]).unwrap();
        if let Ok(mut source) = Source::open(&path) {
            while let Ok(Some(_)) = source.next_frame() {}
        }
    }
}

#[test]
fn pictures_are_found_in_a_stream_of_units() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stream.h264");
    let unit = |bytes: &[u8]| [&[0, 0, 0, 1], bytes].concat();
    let (sets, key) = ([unit(&[0x67, 0x42, 1]), unit(&[0x68, 0xCE, 1])].concat(), unit(&[0x65, 0x88, 7]));
    // The second picture is in two parts, and the third larger than what is read at once.
    let parts = [unit(&[0x41, 0x9A, 5]), unit(&[0x41, 0x1A, 6])].concat();
    let large = unit(&[[0x41, 0x9A].as_slice(), &[9; 3 * CHUNK]].concat());
    let pictures = [[sets, key].concat(), parts, large];
    std::fs::write(&path, pictures.concat()).unwrap();
    let read = read_all(&path);
    assert_eq!(read.iter().map(|frame| frame.data.to_vec()).collect::<Vec<_>>(), pictures);
    assert_eq!(read.iter().map(|frame| frame.is_key).collect::<Vec<_>>(), [true, false, false]);
    assert_eq!(read[2].at.as_micros(), 66_666);
    let copy = folder.path().join("copy.h264");
    record_all(&copy, &read);
    assert_eq!(std::fs::read(&copy).unwrap(), pictures.concat());
}

#[test]
fn what_cannot_be_played_is_said_before_the_call() {
    let folder = tempfile::tempdir().unwrap();
    let check = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let files = VideoFiles { play: Some(path), record: None };
        files.check_blocking().map_err(|(_, error)| error.to_string())
    };
    assert!(check("voice.wav", b"RIFF....WAVE").is_err());
    assert!(check("empty", b"").is_err());
    assert!(check("other.ivf", b"DKIF\0\0\x20\0VP90____________________").is_err());
    assert!(check("timeless.ivf", b"DKIF\0\0\x20\0VP80\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0").is_err());
    let long = [&ivf_head(&[], 0)[..], &u32::MAX.to_le_bytes(), &[0; 8]].concat();
    assert!(check("long.ivf", &long).unwrap_err().contains("longer"));
    assert!(check("cut.ivf", &ivf_head(&[], 0)).unwrap_err().contains("no frames"));
    let nowhere = VideoFiles { play: None, record: Some(folder.path().join("missing/there.ivf")) };
    assert!(nowhere.check_blocking().is_err());
}
